"""Run a pipeline by a schedule or a policy."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.attached import Accelerated
from otcache.targets import choose
from otcache_core import OtcacheError, Schedule
from otcache_core.callable_denoiser import is_module
from otcache_core.contracts import CacheStorage, SampleRequest, ScheduleByGrid
from otcache_core.contracts.planning import forecaster_of
from otcache_core.errors import expected
from otcache_core.interpolation import checked_grid
from otcache_core.loop import Grid, Loop
from otcache_core.notices import notify, once
from otcache_core.numbers import integer
from otcache_core.plugins import Registry, installed
from otcache_core.policy import Policy

#: Of a policy that :func:`otcache.plan` made with ``solver=``.
NOT_MEASURED = (
    "the steps of this policy are those of solver {solver!r}, and what they do was not measured."
)


def accelerate(
    target: Any,
    plan: Schedule | Policy,
    budget: int | None = None,
    *,
    strict: bool = False,
    executor: str | None = None,
    probe: str | None = None,
    registry: Registry | None = None,
    calls_per_step: int | None = None,
    storage: CacheStorage | None = None,
    grid: Grid | None = None,
) -> Accelerated:
    """A context in which ``target`` skips steps; nothing remains on it afterwards.

    Args:
        target: a diffusers pipeline, ``otcache.loop(...)`` or any ``nn.Module`` in a loop of your own.
        plan: a schedule, or a policy together with ``budget``; a policy is checked against the target.
        budget: B, with a policy.
        strict: refuse, instead of noticing, a step count or grid other than planned.
        executor: name of an executor plugin, where not the first that supports the target;
            ``torch-blocks`` calls the denoiser on skipped steps too, and passes over its blocks.
        probe: name of the probe plugin whose facts of the target a policy is checked against, where not
            the first that supports it.
        registry: where plugins come from, forecasters too; None: the installed ones.
        calls_per_step: denoiser calls of one step where the target is a module: 2 where guidance calls it
            twice. Where it is not told, two calls that carry the same time are an error.
        storage: how outputs are kept for forecasts, such as ``otcache.CacheStorage("bf16", device="cpu")``;
            None: as they are, where they are.
        grid: s_0 .. s_N where the target is a module, or a function from N to them: forecasts by noise
            level need it, and a policy is matched by it. None: that of the policy, if there is one.

    Returns:
        A context manager, or a decorator, which is entered at each call; ``run.report`` tells what was
        planned and what was executed. A context that is left without any run of the target says so.

    Raises:
        OtcacheError: if the target is not supported, or does not fit the policy.

    Examples:
        >>> with otcache.accelerate(pipe, policy.schedule(budget=10)) as run:  # doctest: +SKIP
        ...     image = pipe("a red circle", num_inference_steps=30).images[0]
    """
    registry = registry or installed()
    _check_plan(plan, budget)
    if calls_per_step is not None:
        calls_per_step = integer("calls_per_step", calls_per_step, 1)
    points = module_grid(target, plan, grid)
    schedule: Schedule | ScheduleByGrid = (
        plan
        if isinstance(plan, Schedule)
        else planned(registry, target, plan, budget, strict=strict, grid=points, probe=probe)
    )
    options = {"calls_per_step": calls_per_step, "storage": storage, "grid": points}
    told: dict[str, Any] = {n: value for n, value in options.items() if value is not None}
    chosen = choose(registry, "executors", target, executor)
    attach = partial(chosen.attach, target, schedule, strict=strict, **told)
    all_computed = isinstance(plan, Schedule) and plan.budget == plan.num_steps
    return Accelerated(target, attach, all_computed)


def _check_plan(plan: Any, budget: int | None = None) -> None:
    if not isinstance(plan, (Schedule, Policy)):
        kind = type(plan).__name__
        raise OtcacheError(expected("plan", kind, "a Schedule or a Policy", "otcache.plan(...)."))
    if budget is None or isinstance(plan, Policy):
        return
    if integer("budget", budget, 1) != plan.budget:
        advice = "a schedule has a budget of its own."
        raise OtcacheError(expected("budget", budget, f"left out, or {plan.budget}", advice))


def load_policy(path: str | Path) -> Policy:
    """Read a policy file.

    Raises:
        FileError: if it is missing, truncated, of another version or holds a bad value.
    """
    return Policy.load(path)


def planned(
    registry: Registry,
    target: Any,
    policy: Policy,
    budget: int | None,
    *,
    strict: bool = False,
    request: SampleRequest | None = None,
    grid: NDArray[np.float64] | None = None,
    probe: str | None = None,
) -> Schedule | ScheduleByGrid:
    """Check a policy against a target, and give the schedule of each coming run by its own grid.

    All runs of a bare module have one grid, and so one schedule.

    Args:
        registry: where plugins come from.
        target: what will run.
        policy: what was planned.
        budget: B, in 1..N of the policy.
        strict: refuse what would only be noticed.
        request: what will be sampled, where it is known: resolution and guidance are compared too.
        grid: s_0 .. s_N of a bare module's runs; None where it is not known, and N is the policy's.
        probe: name of the probe that tells facts of the target; None: the first that supports it.

    Raises:
        OtcacheError: if there is no policy or no budget, or it is out of range.
        PluginError: naming the policy's forecaster, if it cannot be made.
        MismatchError: if the target is of another model; under ``strict`` for any difference.
    """
    if not isinstance(policy, Policy):
        advice = "make one by otcache.plan(...); one schedule runs by otcache.accelerate(target, schedule)."
        raise OtcacheError(expected("policy", type(policy).__name__, "a Policy", advice))
    if budget is None:
        raise OtcacheError("a policy needs a budget, got None: give budget=10, or another one.")
    forecaster_of(registry, policy.schedule(budget).forecaster)
    # A bare module has the facts of a loop around it, for which policies of modules are made.
    bare = is_module(target)
    asked = Loop(_no_sampler, target) if bare else target
    facts = choose(registry, "probes", asked, probe).provenance(asked, request)
    facts.pop("num_steps", None)  # the schedule itself tells, when it meets a run
    for notice in policy.check(facts, strict=strict):
        notify(notice)
    if policy.solver:
        notify(NOT_MEASURED.format(solver=policy.solver))
    if bare:
        return policy.schedule(budget, None, grid, strict=strict)

    given: set[str] = set()

    def plan(grid: NDArray[np.float64]) -> Schedule:
        known = bool(np.isfinite(grid).all())
        with once(given):
            return policy.schedule(
                budget, len(grid) - 1, grid.tolist() if known else None, strict=strict
            )

    return plan


def module_grid(
    target: Any, plan: Schedule | Policy, grid: Grid | None
) -> NDArray[np.float64] | None:
    """Return s_0 .. s_N of a bare module's runs: as given, else the policy's own; None where unknown.

    Raises:
        OtcacheError: if the grid is not one of N + 1 finite monotone numbers, or the target is no module.
    """
    if not is_module(target):
        if grid is None:
            return None
        raise OtcacheError(
            f"grid is given for a bare module, got {type(target).__name__}: a loop has that of "
            "otcache.loop(..., grid=...), and a pipeline that of its scheduler."
        )
    if grid is None:
        own = plan.provenance.grid if isinstance(plan, Policy) else ()
        return np.asarray(own, dtype=np.float64) if own else None
    points = grid(plan.num_steps) if callable(grid) else grid
    # Else the grid says how many steps there are.
    fixed = callable(grid) or isinstance(plan, Schedule)
    return np.asarray(checked_grid(points, plan.num_steps if fixed else None), dtype=np.float64)


def _no_sampler() -> None:
    """Stand for the sampler of a loop that is only asked about."""
