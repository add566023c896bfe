"""A forecaster that cannot be made, or gives no table, is named with its distribution wherever it is met."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import toy

import otcache
from otcache.media import run_once
from otcache.running import choose
from otcache_core import ExecutionError, OtcacheError, PluginError, Schedule
from otcache_core.contracts import Forecaster, SampleRequest
from otcache_core.errors import OtcacheNotice
from otcache_core.plugins import Info, Registry, hookimpl
from otcache_core.policy import Policy, Provenance

COMPUTED = (0, 1, 4, 8)
TITLE = "forecaster 'mine' of 'hostile'"


def raises(error: BaseException) -> Any:
    def coefficients(*given: Any) -> Any:
        raise error

    return coefficients


def rows(span: Any) -> int:
    return len(span.skipped)


def mutates(span: Any, grid: Any) -> Any:
    grid[:] = 0.0
    return np.ones((rows(span), 1))


#: What it gives instead of a table, and the words of what is said about it.
TABLES: dict[str, tuple[Callable[..., Any], str]] = {
    "raises": (raises(TypeError("unhashable")), "TypeError: unhashable"),
    "exits": (raises(SystemExit(0)), "SystemExit: 0"),
    "nothing": (lambda span, grid: None, r"of shape \(\)"),
    "text": (lambda span, grid: "reuse", "ValueError"),
    "row": (lambda span, grid: np.ones(rows(span)), r"of shape \(\d,\)"),
    "empty": (lambda span, grid: np.ones((rows(span), 0)), r"of shape \(\d, 0\)"),
    "wide": (lambda span, grid: np.ones((rows(span), 9)), r"of shape \(\d, 9\)"),
}
MADE: dict[str, tuple[Any, str]] = {
    "raises": (raises(TypeError("nobody can make it")), "TypeError: nobody can make it"),
    "exits": (raises(SystemExit(3)), "SystemExit: 3"),
}


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Registry]]:
    """Make a registry with all of otcache and a forecaster of these methods, called ``mine``."""

    class Offers:
        @hookimpl
        def otcache_provide_forecasters(self) -> list[Info]:
            return [Info("mine", "bad_forecasters:Mine")]

    def make(**methods: Any) -> Registry:
        module = ModuleType("bad_forecasters")
        named = {"coefficients": lambda self, span, grid: np.ones((rows(span), 1)), **methods}
        module.Mine = type("Mine", (Forecaster,), named)  # type: ignore[attr-defined]  # its own
        monkeypatch.setitem(sys.modules, "bad_forecasters", module)
        registry = Registry(entry_points=False)
        registry.register_builtin()
        registry.register(Offers(), "hostile")
        return registry

    return make


def policy() -> Policy:
    full = tuple(range(0, toy.STEPS, 2))
    schedules = Schedule(toy.STEPS, COMPUTED, "mine"), Schedule(toy.STEPS, full, "mine")
    return Policy(*schedules, Provenance(toy.STEPS))


@pytest.mark.parametrize("what", MADE)
def test_one_that_cannot_be_made_is_one_error_before_anything_runs(what: str, offered: Any) -> None:
    act, words = MADE[what]
    registry, loop = offered(__init__=act), toy.make_loop()
    said = f"{TITLE} cannot be made: {words}"
    with pytest.raises(PluginError, match=said):
        otcache.accelerate(loop, policy(), 4, registry=registry)
    with (
        pytest.raises(PluginError, match=said),
        otcache.accelerate(loop, Schedule(toy.STEPS, COMPUTED, "mine"), registry=registry),
    ):
        pass
    with pytest.raises(PluginError, match=said):
        run_once(loop, policy(), 4, "a", registry=registry)
    recipe = otcache.Recipe(forecaster="mine")
    with pytest.raises(OtcacheError, match=said):
        otcache.calibrate(loop, ["a"], toy.STEPS, recipe=recipe, registry=registry, progress=False)


@pytest.mark.parametrize("what", TABLES)
def test_one_that_gives_no_table_is_named_and_its_steps_are_computed(
    what: str, offered: Any
) -> None:
    """Under ``strict`` it is an error, and so it is where forecasts are measured."""
    act, words = TABLES[what]
    registry, loop = offered(coefficients=lambda self, *given: act(*given)), toy.make_loop()
    said = rf"{TITLE} must give finite coefficients for .* got .*{words}"
    with (
        pytest.warns(OtcacheNotice, match=said),
        otcache.accelerate(loop, policy(), 4, registry=registry) as run,
    ):
        loop(["a"], [0], toy.STEPS)
    assert run.report.computed == {"call": toy.STEPS}
    with (
        pytest.raises(ExecutionError, match=said),
        otcache.accelerate(loop, policy(), 4, strict=True, registry=registry),
    ):
        loop(["a"], [0], toy.STEPS)
    recipe = otcache.Recipe(forecaster="mine")
    with pytest.raises(OtcacheError, match=rf"{TITLE} gives for the span .*{words}"):
        otcache.calibrate(loop, ["a"], toy.STEPS, recipe=recipe, registry=registry, progress=False)


def test_it_is_named_where_schedules_are_measured_and_its_grid_is_its_own(offered: Any) -> None:
    request, loop = SampleRequest(("a",), (0,), toy.STEPS), toy.make_loop()

    def errors(rule: str, registry: Registry) -> np.ndarray:
        probe = choose(registry, "probes", loop)
        evaluator = probe.evaluator(loop, request, list(probe.record(loop, request)))
        return evaluator.evaluate([Schedule(toy.STEPS, COMPUTED, rule)]).errors

    registry = offered(coefficients=lambda self, *given: mutates(*given))
    np.testing.assert_array_equal(errors("mine", registry), errors("reuse", registry))
    bad = offered(coefficients=lambda self, *given: [[0.5]])
    with pytest.raises(PluginError, match=rf"{TITLE} gives .* got 'an array of shape \(1, 1\)'"):
        errors("mine", bad)
