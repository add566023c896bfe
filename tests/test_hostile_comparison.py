"""Bad plugins of every kind in one comparison: each costs its own row or column, with the reason."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from otcache.comparison.job import Job
from otcache.comparison.runner import Settings, compare
from otcache_core.errors import OtcacheNotice
from otcache_core.plugins import Registry

pytestmark = pytest.mark.slow

#: A pipeline that makes grey images, a probe that knows it, and plugins that do it harm.
HOSTILE = """
import ctypes, os, subprocess, sys, threading
from contextlib import contextmanager

import numpy as np

from otcache_core.contracts import (
    Baseline, BaselineSetting, FeatureProbe, Forecaster, Measured, QualityMetric,
)
from otcache_core.plugins import Info, hookimpl

HERE = "hostile_rules"


@hookimpl
def otcache_provide_probes():
    return [Info("grey", f"{HERE}:GreyProbe")]


@hookimpl
def otcache_provide_forecasters():
    return [Info("unmade", f"{HERE}:Unmade")]


@hookimpl
def otcache_provide_metrics():
    names = ("loud", "leaves", "gone", "kills", "crashes", "reads", "forks")
    return [Info(name, f"{HERE}:{name.title()}") for name in names]


@hookimpl
def otcache_provide_baselines():
    names = [name for name in globals() if name.startswith("B_")]
    return [Info(n[2:].replace("_", "-"), f"{HERE}:{n}") for n in [*names, "B_gone"]]


class Grey:
    pass


class GreyProbe(FeatureProbe):
    def supports(self, target):
        return "" if isinstance(target, Grey) else "makes no grey images"

    def sample(self, target, request):
        return np.full((len(request.prompts), 4, 4, 3), 1 / request.num_steps, np.float32)

    def measure(self, target, request, *, flops=False):
        n = request.num_steps
        return Measured(self.sample(target, request), None, n / 100, 10 * n if flops else None, 1)

    def provenance(self, target, request):
        return {}

    record = evaluator = provenance


class Unmade(Forecaster):
    def __init__(self):
        raise TypeError("nobody can make it")

    def coefficients(self, span, grid):
        return None


class Loud(QualityMetric):
    name, higher_is_better = "loud", False

    def __call__(self, images, reference):
        print("a metric prints")
        os.write(1, b"and writes to a descriptor")
        return np.ones(len(images))


class Leaves(Loud):
    def __call__(self, images, reference):
        sys.exit("a metric leaves")


class Kills(Loud):
    def __call__(self, images, reference):
        os._exit(0)


class Crashes(Loud):
    def __call__(self, images, reference):
        ctypes.string_at(0)


class Reads(Loud):
    def __call__(self, images, reference):
        return np.ones(len(images)) + len(sys.stdin.read()) + len(subprocess.check_output(["cat"]))


class Forks(Loud):
    def __call__(self, images, reference):
        if os.fork():
            os._exit(3)
        threading.Event().wait()  # and holds what the other one had open


class Fine(Baseline):
    source, by_budget = "hostile", True

    def supports(self, target, request):
        return ""

    def settings(self, num_steps, budgets, measured):
        return [BaselineSetting(f"B = {b}", {}, b, tuple(range(b))) for b in budgets]

    @contextmanager
    def apply(self, target, setting, measured):
        yield


class B_prints(Fine):
    @contextmanager
    def apply(self, target, setting, measured):
        print('{"event": "absent", "reason": "it says so"}')
        os.write(1, b"no event\\n")
        subprocess.run([sys.executable, "-S", "-c", "print('a child')"], check=True)
        yield


class B_full(Fine):
    pass  # called as images of the full run once were


class B_vandal(Fine):
    def calibrate(self, target, request, budgets):
        request.call.clear()
        np.seterr(all="raise")
        np.random.seed = None
        return {}


class B_raises(Fine):
    def supports(self, target, request):
        raise IndexError("list index out of range")


class B_exits(Fine):
    def calibrate(self, target, request, budgets):
        sys.exit(0)


class B_half(Fine):
    @contextmanager
    def apply(self, target, setting, measured):
        if setting.num_steps == 2:
            os._exit(0)
        yield


class B_dies(Fine):
    def settings(self, num_steps, budgets, measured):
        ctypes.string_at(0)


class B_rubbish(Fine):
    def settings(self, num_steps, budgets, measured):
        return [(0, 1)] * len(budgets)


class B_by_unmade(Fine):
    def calibrate(self, target, request, budgets):
        self.registry.create("forecasters", "unmade")
"""
REASONS = {
    "raises": "IndexError: list index out of range",
    "exits": "while at calibration: SystemExit: 0",
    "dies": "ended by signal 11|ended with status",
    "rubbish": "must be a list of BaselineSetting",
    "by-unmade": "TypeError: nobody can make it",
    "gone": "cannot load 'hostile_rules:B_gone'",
}


def test_each_costs_its_own_row_or_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "hostile_rules.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    registry = Registry(entry_points=False)
    registry.register_builtin()
    registry.register(importlib.import_module("hostile_rules"), "hostile")
    names = [o.info.name for o in registry.infos("baselines") if o.distribution == "hostile"]
    job = Job(
        title="one prompt",
        pipeline="hostile_rules:Grey",
        num_steps=4,
        budgets=(2, 3),
        samples=(("a large red circle", 1000, "shape"),),
        calibration=("a small blue star",),
        reference_steps=0,
    )
    metrics = ("loud", "leaves", "gone", "kills", "crashes", "reads", "forks")
    settings = Settings(progress=False, workers=2, metrics=metrics)
    with pytest.warns(OtcacheNotice) as warned:
        made, written = compare(job, names, tmp_path / "out", settings, registry=registry)
    rows = {(cell.method, cell.budget): cell.metrics for cell in made.cells}
    assert rows.keys() == {
        *((name, budget) for name in ("prints", "full", "vandal") for budget in (2, 3)),
        ("half", 3),
    }
    assert (
        rows["prints", 2] == rows["vandal", 2] == {"rmse": (0.25,), "loud": (1.0,), "reads": (1.0,)}
    )
    reasons = {(gap.method, gap.budget): gap.reason for gap in made.missing}
    assert "ended with status 0 while at B = 2" in reasons.pop(("half", 2))
    for name, reason in REASONS.items():
        assert re.search(reason, reasons.pop((name, None)))
    columns = {"metric leaves of 'hostile'": "SystemExit: a metric leaves"}
    columns["metric kills of 'hostile'"] = "ended the process that it was asked in, with status 0"
    columns["metric forks of 'hostile'"] = "ended the process that it was asked in, with status 3"
    columns["metric crashes of 'hostile'"] = "ended the process that it was asked in, with status"
    columns["metric gone of 'hostile'"] = "cannot load 'hostile_rules:Gone'"
    for name, reason in columns.items():
        assert reason in reasons.pop((name, None))
    assert reasons == {}
    assert sum(issubclass(one.category, OtcacheNotice) for one in warned) == len(columns)
    assert all(path.exists() for path in written)
