"""The registry given is the registry used: by runs, calibrations, servers and comparisons."""

from __future__ import annotations

import importlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import tiny_flux
import torch
import toy

import otcache
from otcache.comparison.job import Job
from otcache.comparison.runner import Settings, compare
from otcache.media import run_once
from otcache.running import choose
from otcache_core import PluginError, Schedule
from otcache_core.contracts import SampleRequest
from otcache_core.plugins import KINDS, Info, Registry, hookimpl, installed
from otcache_core.plugins import registry as reading

#: Two rules of one name.
RULES = ("reuse", "linear")
SMALL = otcache.Recipe(
    ladder=(3, 6), cost_samples=1, anchor_trials=1, climb_trials=0, rounding_runs=0.0
)


class Offers:
    """Offers a forecaster of core's under the name ``mine``."""

    def __init__(self, rule: str) -> None:
        self._info = Info("mine", f"otcache_core.forecasters.extrapolation:{rule.title()}")

    @hookimpl
    def otcache_provide_forecasters(self) -> list[Info]:
        return [self._info]


def private(rule: str | None = None) -> Registry:
    """All of otcache, of nobody else, and perhaps a forecaster of one's own."""
    registry = Registry(entry_points=False)
    registry.register_builtin()
    if rule is not None:
        registry.register(Offers(rule))
    return registry


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail whoever looks up the installed plugins instead of the registry that was given."""

    def refuse() -> Registry:
        raise AssertionError("the installed plugins were asked for")

    monkeypatch.setattr(reading, "_read", refuse)
    with pytest.raises(AssertionError):
        installed()


@pytest.mark.parametrize("executor", ["torch", "torch-blocks"])
def test_each_thread_runs_by_the_forecaster_of_its_own_registry(
    executor: str, nothing_installed: None
) -> None:
    """Two private registries with different forecasters of one name, in one process, at one time."""
    computed, together = (0, 1, 4), Barrier(2)
    expected = {}
    for rule in RULES:
        pipe, schedule = tiny_flux.make_flux(), Schedule(tiny_flux.N, computed, rule)
        with otcache.accelerate(pipe, schedule, executor=executor, registry=private()):
            expected[rule] = tiny_flux.sample(pipe)
    assert not torch.equal(*expected.values())
    schedule = Schedule(tiny_flux.N, computed, "mine")

    def run(rule: str, pipe: Any) -> torch.Tensor:
        with otcache.accelerate(pipe, schedule, executor=executor, registry=private(rule)):
            together.wait(timeout=60)
            return tiny_flux.sample(pipe)

    pipes = [tiny_flux.make_flux() for _ in RULES]
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(RULES, pool.map(run, RULES, pipes), strict=True))
    assert all(torch.equal(found[rule], expected[rule]) for rule in RULES)


def test_each_thread_measures_by_the_forecaster_of_its_own_registry(
    nothing_installed: None,
) -> None:
    """What a calibration measures with: the probe of the registry, and the evaluator of that."""
    request, together = SampleRequest(("a", "b"), (0, 1), toy.STEPS), Barrier(2)

    def errors(rule: str, registry: Registry) -> np.ndarray:
        loop = toy.make_loop()
        probe = choose(registry, "probes", loop)
        evaluator = probe.evaluator(loop, request, list(probe.record(loop, request)))
        if registry.infos("forecasters") != private().infos("forecasters"):
            together.wait(timeout=60)
        return evaluator.evaluate([Schedule(toy.STEPS, (0, 1, 4, 8), rule)]).errors

    expected = {rule: errors(rule, private()) for rule in RULES}
    assert not np.array_equal(*expected.values())
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda rule: errors("mine", private(rule)), RULES))
    for rule, measured in zip(RULES, found, strict=True):
        np.testing.assert_array_equal(measured, expected[rule])


def test_our_own_packages_are_a_complete_otcache(nothing_installed: None) -> None:
    registry = private()
    loop = toy.make_loop()
    measured = otcache.calibrate(
        loop, ["a", "b"], toy.STEPS, recipe=SMALL, registry=registry, progress=False
    )
    policy = otcache.plan(measured)
    with otcache.accelerate(loop, policy, 4, registry=registry) as run:
        loop(["a"], [0], toy.STEPS)
    assert run.report.runs == 1
    handle = otcache.enable(loop, policy, registry=registry)
    with handle.request(budget=4) as run:
        loop(["a"], [0], toy.STEPS)
    handle.remove()
    assert run.report.runs == 1
    assert run_once(loop, policy, 4, "a", registry=registry).report.runs == 1


def test_a_baseline_tunes_and_runs_by_its_own_registry(nothing_installed: None) -> None:
    loop, request = toy.make_loop(), SampleRequest(("a",), (0,), toy.STEPS)
    expected = {}
    for rule in RULES:
        with otcache.accelerate(loop, Schedule(toy.STEPS, (0, 4, 8), rule), registry=private()):
            expected[rule] = loop(["a"], [0], toy.STEPS)
        baseline = private(rule).create("baselines", "uniform", forecaster="mine")
        assert baseline.supports(loop, request) == ""
        measured = baseline.calibrate(loop, request, (3,))
        (setting,) = baseline.settings(toy.STEPS, (3,), measured)
        assert setting.computed == (0, 4, 8)
        with baseline.apply(loop, setting, measured):
            assert torch.equal(loop(["a"], [0], toy.STEPS), expected[rule])


def test_our_own_packages_are_those_that_their_distributions_name() -> None:
    ours = {
        (point.value, point.dist.name)
        for point in metadata.entry_points(group="otcache")
        if point.dist is not None and point.dist.name.startswith("otcache")
    }
    registry = private()
    described = registry.description().modules
    assert {*described, ("otcache_core.plugins.builtin", "otcache-core")} == ours
    assert {kind for kind in KINDS if registry.infos(kind)} == set(KINDS)
    registry.register_builtin()  # once more changes nothing
    assert registry.description().modules == described


def test_a_run_does_not_wait_for_plugins_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read once in a process, which takes ten milliseconds and more."""
    installed()
    monkeypatch.setattr(Registry, "__init__", lambda *given: pytest.fail("they were read anew"))
    loop = toy.make_loop()
    with otcache.accelerate(loop, Schedule(toy.STEPS, (0, 1, 4), "linear")):
        loop(["a"], [0], toy.STEPS)


# --- comparisons ---------------------------------------------------------------------------------------

#: A module that a service has and registers itself: a pipeline that makes grey images, a probe that knows
#: it, a baseline that takes fewer steps, and a forecaster that the baseline looks up.
OWN = """
from contextlib import nullcontext

import numpy as np

from otcache_core.contracts import Baseline, BaselineSetting, FeatureProbe, Measured
from otcache_core.plugins import Info, hookimpl


@hookimpl
def otcache_provide_forecasters():
    return [Info("mine", "otcache_core.forecasters.extrapolation:Linear")]


@hookimpl
def otcache_provide_baselines():
    return [Info("by-mine", "own_rules:ByMine")]


@hookimpl
def otcache_provide_probes():
    return [Info("grey", "own_rules:GreyProbe")]


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


class ByMine(Baseline):
    source, by_budget = "a service's own", True

    def supports(self, target, request):
        return ""

    def calibrate(self, target, request, budgets):
        forecaster = self.registry.create("forecasters", "mine")
        return {"forecaster": type(forecaster).__name__, "nfe": 0}

    def settings(self, num_steps, budgets, measured):
        return [BaselineSetting(f"B = {b}", {}, b, tuple(range(b))) for b in budgets]

    def apply(self, target, setting, measured):
        return nullcontext()
"""
#: Leaves a trace where it is imported.
FOREIGN = "from pathlib import Path\nPath({trace!r}).touch()\nraise ImportError('nobody asked')\n"


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a plugin, for this process and its children, that says when it is imported."""
    facts, trace = tmp_path / "site" / "foreign-0.1.dist-info", tmp_path / "imported"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 0.1\n")
    (facts / "entry_points.txt").write_text("[otcache]\nforeign = foreign\n")
    (facts.parent / "foreign.py").write_text(FOREIGN.format(trace=str(trace)))
    places = [str(facts.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    monkeypatch.syspath_prepend(str(facts.parent))
    monkeypatch.delitem(sys.modules, "foreign", raising=False)  # of another test's
    return trace


def job(**changes: Any) -> Job:
    facts: dict[str, Any] = {
        "title": "one prompt",
        "pipeline": "own_rules:Grey",
        "num_steps": 4,
        "budgets": (2,),
        "samples": (("a large red circle", 1000, "shape"),),
        "calibration": ("a small blue star",),
        "reference_steps": 0,
    }
    return Job(**{**facts, **changes})


def test_a_comparison_uses_the_registry_in_every_process(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch, nothing_installed: None
) -> None:
    """The module is found here only, as that of a program beside its file is."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own_rules.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    registry = private()
    registry.register(importlib.import_module("own_rules"), "service")
    settings = Settings(progress=False, metrics=("rmse",))
    made, _ = compare(job(), ("by-mine",), tmp_path / "out", settings, registry=registry)
    assert made.missing == ()
    cell = made.cell("by-mine", 2)
    assert cell is not None
    assert (cell.nfe, cell.metrics["rmse"]) == (2.0, (0.25,))
    measured = json.loads((tmp_path / "out" / "work" / "by-mine" / "measured.json").read_text())
    assert measured["facts"]["forecaster"] == "Linear"
    assert not trace.exists()


def test_a_comparison_refuses_a_registry_that_its_processes_cannot_have(tmp_path: Path) -> None:
    registry = private("linear")  # an object, which is nowhere to be imported from
    with pytest.raises(
        PluginError, match=r"got 'Offers': register the module that holds its hooks"
    ):
        compare(job(), ("uniform",), tmp_path / "out", registry=registry)
    assert not (tmp_path / "out").exists()


def test_the_trace_is_one(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    assert not trace.exists()
    with pytest.warns(UserWarning, match="nobody asked"), pytest.raises(PluginError):
        registry.create("solvers", "foreign/mine")
    assert trace.exists()
