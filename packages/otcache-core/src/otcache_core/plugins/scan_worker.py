"""What a child process of a plugin scan does: import one module of hooks, and try the plugins it offers."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from otcache_core.contracts import (
    Baseline,
    CacheExecutor,
    FeatureProbe,
    Forecaster,
    Metric,
    PromptMetric,
    QualityMetric,
    SampleRequest,
    ScheduleSolver,
    VideoMetric,
)
from otcache_core.errors import OtcacheError, PluginError, expected
from otcache_core.plugins.discovery import HookEntryPoint
from otcache_core.plugins.info import API_VERSION, KINDS, PROJECT, reason_of
from otcache_core.plugins.lookups import Offer
from otcache_core.plugins.plugin_scan import SLOW, Finding, ScannedPlugin, ScanResult
from otcache_core.plugins.registry import Registry, hook_name
from otcache_core.problem import ScheduleProblem, Solution
from otcache_core.schedule import Schedule


def write_result(job: dict[str, Any]) -> None:
    """Read the module of a job, and write the result to the job's file.

    The process ends at once afterwards, so that threads of the module do not delay it.
    """
    name, module, distribution = job["point"]
    result = scan_module(name, module, distribution, targets=job["targets"])
    made = Path(job["result"] + ".tmp")
    made.write_bytes(msgspec.json.encode(result))
    made.replace(job["result"])
    os._exit(0)


def scan_module(name: str, module: str, distribution: str, *, targets: bool) -> ScanResult:
    """Import a module of hooks and collect what it offers; raises nothing."""
    began, findings, offers = time.monotonic(), list[Finding](), list[ScannedPlugin]()
    registry = Registry(entry_points=False)
    try:
        plugin = HookEntryPoint(name, distribution, module).load()
    except BaseException as error:
        findings.append(Finding("", reason_of(error), "import"))
    seconds = time.monotonic() - began
    if seconds > SLOW:
        findings.append(Finding("", f"its import takes {seconds:.1f} s", "slow"))
    if not any(found.kind == "import" for found in findings):
        findings += _misnamed_hooks(plugin)
        if not any(found.kind == "hook" for found in findings):
            try:
                problems = registry.add(plugin, name, distribution)
            except BaseException as error:
                findings.append(Finding("", reason_of(error), "hook"))
            else:
                findings += [Finding("", problem.reason, "offer") for problem in problems]
        for kind, offer in _offered(registry, distribution):
            offers.append(_plain(kind, offer))
            findings += _faults(registry, kind, offer, targets)
    return ScanResult(distribution, name, module, "", tuple(offers), tuple(findings), seconds)


def _misnamed_hooks(plugin: object) -> list[Finding]:
    """Return functions that are marked as hooks and are none, or are not marked but named like one."""
    known = {hook_name(kind) for kind in KINDS}
    found = []
    for name in dir(plugin):
        try:
            value = getattr(plugin, name)
            options = getattr(value, f"{PROJECT}_impl", None)
            own = callable(value) and value.__module__ == getattr(plugin, "__name__", "")
        except BaseException:
            continue
        if isinstance(options, dict):
            if (options.get("specname") or name) not in known:
                found.append(Finding(name, f"unknown hook {name!r}", "hook"))
        elif own and difflib.get_close_matches(name, known, n=1, cutoff=0.8):
            what = f"unknown hook {name!r}" if name not in known else f"{name} has no @hookimpl"
            found.append(Finding(name, what, "name"))
    return found


def _offered(registry: Registry, distribution: str) -> list[tuple[str, Offer]]:
    pairs = [(kind, offer) for kind in KINDS for offer in registry.known(kind)]
    return [(kind, offer) for kind, offer in pairs if offer.distribution == distribution]


def _plain(kind: str, offer: Offer) -> ScannedPlugin:
    info = offer.info
    return ScannedPlugin(kind, info.name, info.target, info.summary, info.api, tuple(info.requires))


def _faults(registry: Registry, kind: str, offer: Offer, targets: bool) -> list[Finding]:
    """Return the faults of one offer: its api, else its target if that is to be tried."""
    where, info = f"{kind} {offer.info.name}", offer.info
    if info.api != API_VERSION:
        what = f"it is written for api {info.api}, and this otcache has {API_VERSION}"
        return [Finding(where, what, "api")]
    if not targets or info.missing():
        return []
    try:
        registry.get(kind, offer.qualified_name)
    except PluginError as error:
        return [Finding(where, str(error), "target")]
    except BaseException as error:
        return [Finding(where, reason_of(error), "target")]
    try:
        plugin = registry.create(kind, offer.qualified_name)
    except OtcacheError:
        return []  # it needs weights or data
    except BaseException as error:
        return [Finding(where, f"it cannot be made: {reason_of(error)}", "trial")]
    try:
        try_plugin(plugin)
    except BaseException as error:
        return [Finding(where, f"it fails in a small trial: {reason_of(error)}", "trial")]
    return []


STEPS = 6


def try_plugin(plugin: object) -> None:
    """Call a plugin once with small arguments that every plugin of its kind must take.

    An ``OtcacheError`` of its own is valid, except of a forecaster.

    Raises:
        OtcacheError: if the result does not keep the contract.
        Exception: whatever the plugin raises.
    """
    for contract, trial in TRIALS.items():
        if isinstance(plugin, contract):
            trial(plugin)


def _supports(plugin: FeatureProbe | CacheExecutor) -> None:
    _check_reason(plugin, plugin.supports(object()))


def _baseline(plugin: Baseline) -> None:
    _check_reason(plugin, plugin.supports(object(), SampleRequest(("a",), (0,), STEPS)))


def _check_reason(plugin: object, reason: object) -> None:
    if not isinstance(reason, str):
        what = f"{type(plugin).__name__}.supports()"
        raise OtcacheError(expected(what, reason, "a text, '' if it supports the target"))


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
    images = np.random.default_rng(0).random((2, 64, 64, 3))
    videos = np.stack([images, images], axis=1)
    try:
        if isinstance(plugin, QualityMetric):
            made: Any = plugin(images, images)
        elif isinstance(plugin, VideoMetric):
            made = plugin(videos, videos)
        elif isinstance(plugin, PromptMetric):
            made = plugin(images, ["a", "b"])
        else:
            return
    except OtcacheError:
        return
    values = np.asarray(made, dtype=np.float64)
    if values.shape != (2,):
        raise OtcacheError(expected("the metric's values", made, "2 numbers, one per image"))


def _solver(plugin: ScheduleSolver) -> None:
    if plugin.abilities.needs:
        return
    made: object = plugin.solve(ScheduleProblem(STEPS, 3))
    if not isinstance(made, Solution):
        raise OtcacheError(expected("solve()", made, "a Solution"))
    if made.schedule is not None and made.schedule.budget != 3:
        raise OtcacheError(expected("solve()", made.schedule, "a schedule of the requested budget"))


TRIALS: dict[type, Callable[[Any], None]] = {
    FeatureProbe: _supports,
    CacheExecutor: _supports,
    Baseline: _baseline,
    Forecaster: _forecaster,
    Metric: _metric,
    ScheduleSolver: _solver,
}
