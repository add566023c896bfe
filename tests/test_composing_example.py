"""otcache as a library in a larger program, as examples/composing shows it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import otcache

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module("composing.__main__")
    otcache.notices_to(None)


def test_it_serves_logs_and_follows_schedules_elsewhere(
    example: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    example.main()
    said = capsys.readouterr().out
    assert "planned by 'early'" in said
    assert (
        "{'status': 400, 'error': 'budget must be an integer between 1 and 20, got 500.'}" in said
    )
    assert "steps computed [4, 5, 6, 4, 5, 6], as asked: True" in said
    assert "processes give what threads give: True" in said
    assert "8 of 20 outputs computed, the others by 'fitted'" in said
    apart = re.findall(r"(\S+) apart", said)
    assert len(apart) == 2
    assert all(float(number) < 1e-12 for number in apart)
    found = re.search(r"forecast (\S+), reuse (\S+)", said)
    assert found is not None
    forecast, reuse = map(float, found.groups())
    assert forecast < reuse
    kinds = [record.name for record in caplog.records]
    assert kinds == ["composing", "composing", "composing.otcache"]
    refused, unknown, notice = (record.getMessage() for record in caplog.records)
    assert refused.startswith("OtcacheError: solver 'state-dp' needs the pipeline")
    assert unknown.startswith("PluginError: solvers has no 'nobody-s'")
    assert "was not measured" in notice
