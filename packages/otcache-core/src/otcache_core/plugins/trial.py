"""Ask a plugin one small question, in a child process: does it answer as its contract says at all?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from otcache_core.contracts import (
    Baseline,
    CacheExecutor,
    ClipMetric,
    FeatureProbe,
    Forecaster,
    Metric,
    PromptMetric,
    QualityMetric,
    SampleRequest,
    ScheduleSolver,
)
from otcache_core.errors import OtcacheError, expected
from otcache_core.problem import ScheduleProblem, Solution
from otcache_core.schedule import Schedule

STEPS = 6


def ask(plugin: object) -> None:
    """Ask a plugin what it must be able to answer about something small.

    A refusal in words, an ``OtcacheError``, is an answer, but not for a forecaster without weights.

    Raises:
        OtcacheError: if the answer is not what the contract says.
        Exception: whatever the plugin raises.
    """
    for contract, question in QUESTIONS.items():
        if isinstance(plugin, contract):
            question(plugin)


def _supports(plugin: FeatureProbe | CacheExecutor) -> None:
    _reason(plugin, plugin.supports(object()))


def _baseline(plugin: Baseline) -> None:
    _reason(plugin, plugin.supports(object(), SampleRequest(("a",), (0,), STEPS)))


def _reason(plugin: object, said: object) -> None:
    if not isinstance(said, str):
        what = f"{type(plugin).__name__}.supports()"
        raise OtcacheError(expected(what, said, "a text, '' where it supports the target"))


def _forecaster(plugin: Forecaster) -> None:
    weights = ((), (0.1,), (0.1, 0.2))
    spans = Schedule(STEPS, (0, 1, 3), "fitted", weights).spans()
    (span,) = [s for s in spans if s.start == 1]
    made = np.asarray(plugin.coefficients(span, np.linspace(1.0, 0.0, STEPS + 1)), dtype=np.float64)
    if made.ndim != 2 or len(made) != len(span.skipped) or not np.isfinite(made).all():
        wanted = f"finite numbers, a row for each of {len(span.skipped)} skipped steps"
        raise OtcacheError(expected("coefficients()", made.tolist(), wanted))


def _metric(plugin: Metric) -> None:
    if not isinstance(getattr(plugin, "name", None), str):
        raise OtcacheError(expected("Metric.name", getattr(plugin, "name", None), "a short text"))
    if not isinstance(getattr(plugin, "higher_is_better", None), bool):
        got = getattr(plugin, "higher_is_better", None)
        raise OtcacheError(expected("Metric.higher_is_better", got, "True or False"))
    pictures = np.random.default_rng(0).random((2, 64, 64, 3))
    clips = np.stack([pictures, pictures], axis=1)
    try:
        if isinstance(plugin, QualityMetric):
            made: Any = plugin(pictures, pictures)
        elif isinstance(plugin, ClipMetric):
            made = plugin(clips, clips)
        elif isinstance(plugin, PromptMetric):
            made = plugin(pictures, ["a", "b"])
        else:
            return
    except OtcacheError:
        return
    values = np.asarray(made, dtype=np.float64)
    if values.shape != (2,):
        raise OtcacheError(expected("the metric's values", made, "2 numbers, one a picture"))


def _solver(plugin: ScheduleSolver) -> None:
    if plugin.abilities.needs:
        return
    made: object = plugin.solve(ScheduleProblem(STEPS, 3))
    if not isinstance(made, Solution):
        raise OtcacheError(expected("solve()", made, "a Solution"))
    if made.schedule is not None and made.schedule.budget != 3:
        raise OtcacheError(expected("solve()", made.schedule, "a schedule of the budget asked for"))


QUESTIONS: dict[type, Callable[[Any], None]] = {
    FeatureProbe: _supports,
    CacheExecutor: _supports,
    Baseline: _baseline,
    Forecaster: _forecaster,
    Metric: _metric,
    ScheduleSolver: _solver,
}
