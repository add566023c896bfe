"""Each sampler once; its results go to build/foreign, from which tools/foreign.py writes docs/foreign.md."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from foreign.case import Case
from foreign.measure import measure

OUT = Path("build/foreign")
MODULES = ("ode", "karras", "lucidrains", "posteriors", "runtimes")
CASES = [case for name in MODULES for case in import_module(f"foreign.{name}").CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sampler(case: Case) -> None:
    file = OUT / f"{case.name}.json"
    file.unlink(missing_ok=True)
    results = measure(case) | {"version": version(case.library), "order": CASES.index(case)}
    OUT.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1), encoding="utf-8")
    assert not results["failed"], results["refused"]
