"""Run a pipeline by a schedule or a policy.

:func:`accelerate` checks them against the target and chooses an executor; :class:`Accelerated` is the context
in which it is attached. What is on a target is kept in its ``__dict__``, where :func:`enabled` finds it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from otcache_core import ExecutionError, OtcacheError, PluginError, Schedule
from otcache_core.callable_denoiser import is_module
from otcache_core.contracts import (
    CacheExecutor,
    CacheStorage,
    FeatureProbe,
    RunHandle,
    SampleRequest,
    ScheduleByGrid,
)
from otcache_core.contracts.execution import NOTHING_RAN
from otcache_core.contracts.planning import forecaster_of
from otcache_core.copy_guard import CopyGuard
from otcache_core.errors import expected
from otcache_core.interpolation import checked_grid
from otcache_core.loop import Grid, Loop
from otcache_core.notices import notify, once
from otcache_core.numbers import integer
from otcache_core.plugins import Registry, installed
from otcache_core.plugins.info import reason_of
from otcache_core.policy import Policy
from otcache_core.uncalibrated import default_schedule

_NAME = "_otcache"
F = TypeVar("F", bound=Callable[..., Any])
#: Of a policy that :func:`otcache.plan` made with ``solver=``.
NOT_MEASURED = (
    "the steps of this policy are those of solver {solver!r}, and what they do was not measured."
)


def accelerate(
    target: Any,
    schedule: Schedule | Policy | None = None,
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
    """Return a context in which ``target`` skips steps; nothing remains on it afterwards.

    Args:
        target: a diffusers pipeline, ``otcache.loop(...)`` or any ``nn.Module`` in a loop of your own.
        schedule: a schedule, or a policy together with ``budget``; a policy is checked against the target.
            With ``budget`` alone the steps are those of
            :func:`otcache_core.uncalibrated.default_schedule`, and nothing needs to be calibrated.
        budget: B, with a policy, or alone.
        strict: raise, instead of giving a notice, for another step count or grid than the policy's.
        executor: name of an executor plugin, where not the first that supports the target;
            ``torch-blocks`` calls the denoiser on skipped steps too, and passes over its blocks.
        probe: name of the probe plugin whose facts of the target a policy is checked against, where not
            the first that supports it.
        registry: where plugins come from, forecasters too; None: the installed ones.
        calls_per_step: denoiser calls of one step where the target is a module: 2 where guidance calls it
            twice. If it is not given, two calls that carry the same time are an error.
        storage: how outputs are kept for forecasts, such as ``otcache.CacheStorage("bf16", device="cpu")``;
            None: as they are, where they are.
        grid: s_0 .. s_N where the target is a module, or a function from N to them: forecasts by noise
            level need it, and a policy is matched by it. None: that of the policy, if there is one. Without
            schedule and policy it says how many steps there are.

    Returns:
        A context manager, or a decorator, which is entered at each call; ``run.report`` has the schedule
        and what was executed. A context that is left without any run of the target gives a notice.

    Raises:
        OtcacheError: if the target is not supported, or does not fit the policy.

    Examples:
        >>> with otcache.accelerate(pipe, budget=10) as run:  # doctest: +SKIP
        ...     image = pipe("a red circle", num_inference_steps=30).images[0]
        >>> with otcache.accelerate(pipe, policy, budget=10) as run:  # doctest: +SKIP
        ...     image = pipe("a red circle", num_inference_steps=30).images[0]
    """
    registry = registry or installed()
    _check_schedule(schedule, budget)
    if calls_per_step is not None:
        calls_per_step = integer("calls_per_step", calls_per_step, 1)
    points = module_grid(target, schedule, grid)
    runs: Schedule | ScheduleByGrid = (
        schedule
        if isinstance(schedule, Schedule)
        else schedule_of(
            registry, target, schedule, budget, strict=strict, grid=points, probe=probe
        )
    )
    every = {"calls_per_step": calls_per_step, "storage": storage, "grid": points}
    options: dict[str, Any] = {name: value for name, value in every.items() if value is not None}
    chosen = choose(registry, "executors", target, executor)
    attach = partial(chosen.attach, target, runs, strict=strict, **options)
    all_computed = isinstance(schedule, Schedule) and schedule.budget == schedule.num_steps
    return Accelerated(target, attach, all_computed, expected_of(schedule, budget))


def expected_of(policy: Schedule | Policy | None, budget: int | None) -> dict[str, float]:
    """Return the errors that a policy expects of a budget; empty where there is none."""
    if not isinstance(policy, Policy) or budget is None:
        return {}
    return policy.expected(budget)


def requested_budget(policy: Policy | None, budget: int | None, quality: str | None) -> int:
    """Return the budget of a request, which names it, or a quality of a policy.

    Raises:
        OtcacheError: if it names neither or both, there is no policy, or it does not know the quality.
    """
    if (budget is None) == (quality is None):
        got = "none" if budget is None else "both"
        raise OtcacheError(f"a request has a budget or a quality, got {got}: give one of them.")
    if quality is None:
        assert budget is not None
        return budget
    if policy is None:
        raise OtcacheError(f"quality {quality!r} needs a policy, got none: give one, or a budget.")
    return policy.for_quality(quality)


def _check_schedule(schedule: Any, budget: int | None) -> None:
    if schedule is None and budget is None:
        raise OtcacheError(
            "a budget, a policy or a schedule is needed, got none: give budget=10, or another one."
        )
    if not isinstance(schedule, (Schedule, Policy, type(None))):
        kind, advice = type(schedule).__name__, "otcache.plan(...)."
        raise OtcacheError(expected("schedule", kind, "a Schedule or a Policy", advice))
    if budget is None or not isinstance(schedule, Schedule):
        return
    if integer("budget", budget, 1) != schedule.budget:
        advice = "a schedule has a budget of its own."
        raise OtcacheError(expected("budget", budget, f"omitted, or {schedule.budget}", advice))


def load_policy(path: str | Path) -> Policy:
    """Read a policy file.

    Raises:
        FileError: if it is missing, truncated, of another version or holds a bad value.
    """
    return Policy.load(path)


def schedule_of(
    registry: Registry,
    target: Any,
    policy: Policy | None,
    budget: int | None,
    *,
    strict: bool = False,
    request: SampleRequest | None = None,
    grid: NDArray[np.float64] | None = None,
    probe: str | None = None,
) -> Schedule | ScheduleByGrid:
    """Check a policy against a target, and return the schedule of each coming run by its own grid.

    All runs of a bare module have one grid, and so one schedule.

    Args:
        registry: where plugins come from.
        target: what will run.
        policy: of :func:`otcache.plan`; None: the default schedule, for which nothing is measured.
        budget: B, in 1..N of the policy.
        strict: raise where otherwise a notice is given.
        request: what will be sampled, if it is known: resolution and guidance are compared too.
        grid: s_0 .. s_N of a bare module's runs; None where it is not known, and N is the policy's.
        probe: name of the probe that reads facts of the target; None: the first that supports it.

    Raises:
        OtcacheError: if there is no policy or no budget, or it is out of range.
        PluginError: naming the policy's forecaster, if it cannot be made.
        MismatchError: if the target is of another model; under ``strict`` for any difference.
    """
    if policy is None:
        predicted = _prediction(registry, target, probe)
        return _uncalibrated(target, integer("budget", budget, 1), grid, predicted)
    if not isinstance(policy, Policy):
        advice = "make one by otcache.plan(...); one schedule runs by otcache.accelerate(target, schedule)."
        raise OtcacheError(expected("policy", type(policy).__name__, "a Policy", advice))
    if budget is None:
        raise OtcacheError("a policy needs a budget, got None: give budget=10, or another one.")
    forecaster_of(registry, policy.schedule(budget).forecaster)
    # A bare module has the facts of a loop around it, for which policies of modules are made.
    bare = is_module(target)
    known = Loop(lambda: None, target) if bare else target
    facts = choose(registry, "probes", known, probe).provenance(known, request)
    facts.pop("num_steps", None)  # is compared when a run begins
    for notice in policy.check(facts, strict=strict):
        notify(notice)
    if policy.solver:
        notify(NOT_MEASURED.format(solver=policy.solver))
    if bare:
        return policy.schedule(budget, None, grid, strict=strict)

    noticed: set[str] = set()

    def by_grid(grid: NDArray[np.float64]) -> Schedule:
        levels = grid.tolist() if np.isfinite(grid).all() else None
        with once(noticed):
            return policy.schedule(budget, len(grid) - 1, levels, strict=strict)

    return by_grid


def _prediction(registry: Registry, target: Any, probe: str | None) -> str | None:
    """Return what the denoiser predicts; None where no probe knows it."""
    if is_module(target):
        return None
    try:
        return (
            choose(registry, "probes", target, probe)
            .provenance(target, None)
            .get("prediction_type")
        )
    except OtcacheError:  # an executor of its own may run what no probe can record
        return None


def _uncalibrated(
    target: Any, budget: int, grid: NDArray[np.float64] | None, predicted: str | None
) -> Schedule | ScheduleByGrid:
    if not is_module(target):
        return lambda points: default_schedule(len(points) - 1, budget, points, predicted)
    if grid is None:
        raise OtcacheError(
            f"{type(target).__name__} alone does not say how many steps its runs have: give "
            "accelerate(..., grid=[s_0, ..., s_N]), or accelerate otcache.loop(...) around it."
        )
    return default_schedule(len(grid) - 1, budget, grid)


def module_grid(
    target: Any, schedule: Schedule | Policy | None, grid: Grid | None
) -> NDArray[np.float64] | None:
    """Return s_0 .. s_N of a bare module's runs: as given, else the policy's own; None where unknown.

    Raises:
        OtcacheError: if the grid is not one of N + 1 finite monotone numbers, or the target is not a module.
    """
    if not is_module(target):
        if grid is None:
            return None
        raise OtcacheError(
            f"grid is given for a bare module, got {type(target).__name__}: a loop has that of "
            "otcache.loop(..., grid=...), and a pipeline that of its scheduler."
        )
    if grid is None:
        known = schedule.provenance.grid if isinstance(schedule, Policy) else ()
        return np.asarray(known, dtype=np.float64) if known else None
    if schedule is None:
        if callable(grid):
            advice = "no schedule says how many steps there are."
            raise OtcacheError(expected("grid", "a function", "the values s_0 .. s_N", advice))
        return np.asarray(checked_grid(grid, None), dtype=np.float64)
    n = schedule.num_steps
    points = grid(n) if callable(grid) else grid
    # Else the grid says how many steps there are.
    fixed = callable(grid) or isinstance(schedule, Schedule)
    return np.asarray(checked_grid(points, n if fixed else None), dtype=np.float64)


class Accelerated(AbstractContextManager[RunHandle]):
    """A context in which a target skips steps, or a decorator, which enters one of its own at each call.

    One that is entered and never left stays on while its target lives: ``otcache.enabled(target)`` finds
    it. A context that is left without any run of the target gives a notice.

    Args:
        target: what is accelerated.
        attach: makes the executor's context, anew at each entry.
        all_computed: whether no step is skipped.
        expected: errors that the policy measured, for the report.
    """

    def __init__(
        self,
        target: Any,
        attach: Callable[[], AbstractContextManager[RunHandle]],
        all_computed: bool,
        expected: Mapping[str, float],
    ) -> None:
        self._target, self._attach, self._all_computed = target, attach, all_computed
        self._expected = dict(expected)
        self._context: AbstractContextManager[RunHandle] | None = None
        self._run: RunHandle | None = None

    @property
    def run(self) -> RunHandle | None:
        """The handle of the runs since it was entered; None outside."""
        return self._run

    def __enter__(self) -> RunHandle:
        if any(not isinstance(thing, Accelerated) for thing in on(self._target)):
            kind = type(self._target).__name__
            raise ExecutionError(
                f"{kind} is enabled already: run it in handle.request(budget), or call "
                "otcache.enabled(pipe).remove() first."
            )
        context = self._attach()
        run = context.__enter__()
        run.report.expected = dict(self._expected)
        self._context, self._run = context, run
        put_on(self._target, self)
        return run

    def __exit__(self, *error: Any) -> bool | None:
        context, run = self._context, self._run
        self._context = self._run = None
        if context is None or run is None:
            return None
        take_off(self._target, self)
        swallowed = context.__exit__(*error)
        if error[0] is None and run.report.idle and not self._all_computed:
            notify(NOTHING_RAN)
        return swallowed

    def remove(self) -> None:
        """Leave the context; may be called twice.

        Raises:
            ExecutionError: while a run is under way.
        """
        if self._run is not None and self._run.running:
            raise ExecutionError(
                "a run must end before its context is left, got remove() inside it: call it after the run."
            )
        self.__exit__(None, None, None)

    def __call__(self, function: F) -> F:
        """Decorate a function, also one that is a generator or a coroutine: it is accelerated to its end."""
        fresh = partial(Accelerated, self._target, self._attach, self._all_computed, self._expected)
        wrapper: Any = _around(function, fresh)
        return wrapper  # type: ignore[no-any-return]


def _around(function: Any, context: Callable[[], Accelerated]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with context():
                return await function(*args, **kwargs)

        return awaited
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def streamed(*args: Any, **kwargs: Any) -> Any:
            with context():
                async with aclosing(function(*args, **kwargs)) as steps:  # its end is inside too
                    sent = None
                    with suppress(StopAsyncIteration):
                        while True:
                            sent = yield await steps.asend(sent)

        return streamed
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generated(*args: Any, **kwargs: Any) -> Any:
            with context():
                return (yield from function(*args, **kwargs))

        return generated

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with context():
            return function(*args, **kwargs)

    return called


class Attached(Protocol):
    """A handle of ``otcache.enable``, or a context of ``otcache.accelerate`` that was entered."""

    @property
    def run(self) -> RunHandle | None:
        """The handle of the runs at present; None where every step is computed."""

    def remove(self) -> None:
        """Take everything off the target."""


def enabled(target: Any) -> Attached | None:
    """Return what is on a target: the handle of ``enable``, or the context of ``accelerate`` entered last.

    A handle stays on its target also if no variable refers to it; so does a context that was entered and
    never left. Both have ``run`` and ``remove()``.

    Args:
        target: the pipeline, ``otcache.loop(...)`` or module itself, not a copy.

    Returns:
        None if nothing is on it.

    Examples:
        >>> otcache.enable(pipe, policy, budget=8)  # doctest: +SKIP
        >>> otcache.enabled(pipe).remove()  # doctest: +SKIP
    """
    things = on(target)
    return things[-1] if things else None


def on(target: Any) -> list[Attached]:
    """Return all that is on a target, oldest first."""
    attachments = getattr(target, "__dict__", {}).get(_NAME)
    return list(attachments.things) if isinstance(attachments, _Attachments) else []


def put_on(target: Any, thing: Attached) -> None:
    """Keep something on a target, if that has a ``__dict__``."""
    known = getattr(target, "__dict__", None)
    if known is not None:
        attachments = known.get(_NAME)
        (attachments if isinstance(attachments, _Attachments) else _Attachments(target)).put(thing)


def take_off(target: Any, thing: Attached) -> None:
    """Remove something from a target, if it is on it."""
    attachments = getattr(target, "__dict__", {}).get(_NAME)
    if isinstance(attachments, _Attachments) and thing in attachments.things:
        attachments.drop(thing)


class _Attachments:
    """What is on one target, kept in the ``__dict__`` of that; copies and pickles of it have none.

    Nothing else refers to it, so it is collected with the target.
    """

    def __init__(self, target: Any) -> None:
        self.things: list[Attached] = []
        self._target = target
        self._copies = CopyGuard(target, self._strip)

    def put(self, thing: Attached) -> None:
        if not self.things:
            self._copies.__enter__()
            vars(self._target)[_NAME] = self
        self.things.append(thing)

    def drop(self, thing: Attached) -> None:
        self.things.remove(thing)
        if not self.things:
            self._strip(vars(self._target))
            self._copies.__exit__()

    def _strip(self, state: dict[str, Any]) -> None:
        if state.get(_NAME) is self:
            del state[_NAME]


@overload
def choose(
    registry: Registry, kind: Literal["probes"], target: Any, name: str | None = None
) -> FeatureProbe: ...
@overload
def choose(
    registry: Registry, kind: Literal["executors"], target: Any, name: str | None = None
) -> CacheExecutor: ...
def choose(
    registry: Registry, kind: Literal["probes", "executors"], target: Any, name: str | None = None
) -> FeatureProbe | CacheExecutor:
    """Return the first probe or executor that supports the target, or the named one.

    Otcache's own and those registered by hand come first, by name; those of other packages are imported only
    if none of these supports the target. One that raises is passed over with a warning.

    Args:
        registry: where plugins come from.
        kind: ``probes`` or ``executors``.
        target: a pipeline, a loop or a module.
        name: of a plugin; None for the first that supports the target.

    Raises:
        OtcacheError: if none does, or there is none of that name; the message gives each one's reason,
            or the extra to install.
    """
    if name is not None:
        plugin = registry.create(kind, name)
        try:
            reason = supported(plugin, target)
        except BaseException as error:
            said = str(error) if isinstance(error, OtcacheError) else reason_of(error)
            raise PluginError(f"{kind} {name!r} does not say what it supports: {said}") from error
        if not reason:
            return plugin
        raise OtcacheError(f"{type(target).__name__} cannot be used: {name}: {reason}")
    reasons = []
    for offer in registry.candidates(kind):
        try:
            plugin = registry.create(kind, offer.qualified_name)
            reason = supported(plugin, target)
        except BaseException as error:
            reason = registry.failed(offer, error)
        else:
            if not reason:
                return plugin
        reasons.append(f"{offer.info.name}: {reason}")
    if not reasons:
        raise OtcacheError(f"no {kind} are installed: pip install 'otcache[diffusers]'")
    raise OtcacheError(f"{type(target).__name__} cannot be used: {'; '.join(reasons)}")


def supported(plugin: FeatureProbe | CacheExecutor, target: Any) -> str:
    """Return why a plugin does not support a target; "" if it does.

    Raises:
        OtcacheError: if the plugin returns no text.
    """
    reason: object = plugin.supports(target)
    if not isinstance(reason, str):
        wanted = "a text, '' where it supports the target"
        raise OtcacheError(expected(f"{type(plugin).__name__}.supports()", reason, wanted))
    return reason
