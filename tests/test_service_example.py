"""The service of examples/: plugins of its own, and a budget by each deadline."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from otcache_core.plugins import Registry, installed
from otcache_core.plugins import registry as reading

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("service_example", EXAMPLES / "service.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::otcache.OtcacheNotice")
def test_it_runs_by_its_own_solver_and_asks_for_nothing_installed(
    example: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> Registry:
        raise AssertionError("the installed plugins were asked for")

    monkeypatch.setattr(reading, "_read", refuse)
    with pytest.raises(AssertionError):
        installed()
    example.main()
    one, all_of_them = capsys.readouterr().out.splitlines()
    assert one.startswith("1 of 20 steps")
    assert all_of_them.startswith("20 of 20 steps")
