"""A thin slice of benchmarks/fuzz_files.py: damaged files are used, or refused in words."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
#: Mutations of each loader that needs no torch, but those that draw.
COUNT = 9
DRAWN = ("page", "report")


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Provide the benchmark."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("fuzz_files")
    for name in [n for n in sys.modules if n.partition(".")[0] in ("fuzz_files", "fuzzing")]:
        del sys.modules[name]


def test_damaged_files_are_used_or_refused(fuzz: Any, tmp_path: Path) -> None:
    known = (fuzz.LOADED, fuzz.REFUSED, fuzz.MISUSED)
    found = {}
    for loader in [*fuzz.plain_loaders(), *fuzz.comparison_loaders()]:
        for number in range(0 if loader.name in DRAWN else COUNT):
            found[loader.name, number] = fuzz.outcome(loader, 1, number, tmp_path / "files")
    assert {place: what for place, what in found.items() if what not in known} == {}
    assert len(found) >= 100
    assert set(found.values()) >= {fuzz.LOADED, fuzz.REFUSED}


@pytest.mark.filterwarnings("ignore::otcache_core.errors.OtcacheNotice")
def test_what_is_valid_is_used(fuzz: Any, tmp_path: Path) -> None:
    for loader in [*fuzz.plain_loaders(), *fuzz.comparison_loaders()]:
        if loader.name in DRAWN:
            continue
        folder = tmp_path / loader.name.replace(" ", "-")
        folder.mkdir()
        for path in loader.make(folder)[:1]:
            loader.use(path)
