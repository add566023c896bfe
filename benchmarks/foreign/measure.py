"""Calibrate, plan and accelerate one loop; errors of held-out seeds beside uniform reuse and fewer steps."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

import otcache
from foreign.case import Case
from otcache_core.errors import OtcacheNotice

CALIBRATION, HELD_OUT = range(8), range(1000, 1064)
#: N divided by these are the budgets.
DIVISORS = (2, 3, 5)
Results = dict[str, Any]


def measure(case: Case) -> Results:
    """Everything the document says of one sampler; an error is a result."""
    begun = time.perf_counter()
    results: Results = {"library": case.library, "sampler": case.sampler, "source": case.source()}
    results |= {"note": case.note, "steps": case.steps, "refused": "", "failed": "", "budgets": {}}
    loop = case.loop()
    with _notices() as said:
        try:
            results |= _calibrated(case, loop)
        except otcache.OtcacheError as error:
            results["refused"] = str(error)
        except Exception as error:  # a row of its own: the other samplers are measured all the same
            results["failed"] = f"{type(error).__name__}: {error}"
    if bool(results["refused"]) != case.refused and not results["failed"]:
        results["failed"] = "measured" if case.refused else "refused"
    results["notices"] = sorted(set(said))
    results["seconds"] = round(time.perf_counter() - begun, 1)
    return results


def _calibrated(case: Case, loop: otcache.Loop) -> Results:
    torch.manual_seed(0)
    calibration = otcache.calibrate(loop, ["any"], case.steps, seeds=CALIBRATION, progress=False)
    policy = otcache.plan(calibration)
    total = policy.schedule(budget=2).num_steps
    full = _sample(loop, case.steps)
    budgets = {}
    for divisor in DIVISORS:
        budget = max(2, round(total / divisor))
        planned = policy.schedule(budget=budget)
        uniform = tuple(round(i * total / budget) for i in range(budget))
        reuse = otcache.Schedule(num_steps=total, computed=uniform)
        errors = {
            "otcache": _error(_sample(loop, case.steps, planned), full),
            "uniform reuse": _error(_sample(loop, case.steps, reuse), full),
        }
        fewer = _steps_for(loop, budget) if case.fewer else None
        if fewer is not None:
            errors["fewer steps"] = _error(_sample(loop, fewer), full)
        budgets[str(budget)] = {"forecaster": planned.forecaster, "errors": errors}
    return {"total": total, "budgets": budgets}


def _sample(loop: otcache.Loop, steps: int, schedule: otcache.Schedule | None = None) -> Tensor:
    context: AbstractContextManager[Any] = nullcontext()
    if schedule is not None:
        context = otcache.accelerate(loop, schedule)
    with context as run:
        result = loop(["any"] * len(HELD_OUT), list(HELD_OUT), steps)
    if run is not None:
        for text in run.report.warnings:
            warnings.warn(text, OtcacheNotice, stacklevel=2)
    return result


def _steps_for(loop: otcache.Loop, budget: int) -> int | None:
    """Return the most steps to ask for that take at most ``budget`` of the schedule's; None if none do."""
    fitting = [n for n in range(1, budget + 1) if (loop.steps_of(["any"], [0], n) or n) <= budget]
    return max(fitting, default=None)


def _error(result: Tensor, full: Tensor) -> list[float]:
    """RMSE of each row."""
    return (result - full).double().flatten(1).square().mean(1).sqrt().tolist()


@contextmanager
def _notices() -> Iterator[list[str]]:
    """Collect the texts of otcache's notices; other warnings are dropped."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    texts += [str(w.message) for w in caught if issubclass(w.category, OtcacheNotice)]
