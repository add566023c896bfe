"""Output reuse without a hook: arguments that make a plain pipeline skip steps."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.errors import ExecutionError
from otcache_core.schedule import Schedule
from otcache_diffusers.compat import is_a, is_pipeline
from otcache_diffusers.hooks import sigma_grid
from otcache_diffusers.recording.sampler import quiet

Floats = NDArray[np.float64]
EULER, FLOW_EULER = "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"
#: Relative to the largest noise level (float32 schedulers), and of the 1000 training timesteps.
SIGMA_TOLERANCE, TIMESTEP_TOLERANCE = 1e-6, 1e-2
_NEUTRAL = {
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}


@dataclass(frozen=True, eq=False)
class SigmaExport:
    """Arguments that make the plain pipeline sample on the sub-grid {s_k : k in S}.

    Attributes:
        kwargs: add them to the pipeline's call: ``sigmas``, and ``num_inference_steps`` (N: some
            pipelines take their shift from it).
        scheduler: put it on the pipeline meanwhile; None if the pipeline's own serves.
        grid: the noise levels the sampler then runs through, s_{k_1} .. s_{k_B}, s_N.

    Examples:
        >>> export = export_sigmas(pipe, schedule, prompt=prompt)  # doctest: +SKIP
        >>> with export.on(pipe):  # doctest: +SKIP
        ...     image = pipe(prompt=prompt, **export.kwargs).images[0]
    """

    kwargs: dict[str, Any]
    scheduler: Any | None
    grid: tuple[float, ...]

    @contextmanager
    def on(self, pipe: Any) -> Iterator[None]:
        """Give the pipeline the scheduler that the export needs, if any."""
        before = pipe.scheduler
        pipe.scheduler = self.scheduler or before
        try:
            yield
        finally:
            pipe.scheduler = before


def export_sigmas(pipe: Any, schedule: Schedule, **call: Any) -> SigmaExport:
    r"""Turn a schedule that reuses outputs into plain sampling on fewer steps (docs/theory.md, section 2).

    Pipelines shift the sigmas they are given again, so what is exported is the inverse of the shift,

    .. math:: \frac{s}{a - (a - 1) s}, \quad \frac{1}{1 + e^\mu (1/s - 1)}, \quad
        \frac{1}{1 + \mu (1/s - 1)}

    for a static shift a, and dynamic exponential and linear shift mu. If that has no inverse
    (terminal shift, karras, exponential and beta spacing) it is the noise levels themselves, with a
    neutral scheduler. Either way the pipeline's call is rehearsed on a copy of its scheduler, up to
    ``set_timesteps``, and the result compared with the wanted grid to 1e-6.

    Args:
        pipe: a diffusers pipeline; left as it is.
        schedule: with forecaster ``reuse`` and the same steps for all branches.
        call: the arguments its calls will have (prompt, height, ...): the shift may depend on them.

    Raises:
        ExecutionError: if it cannot be done: the pipeline or scheduler takes no sigmas, the
            sampler is multistep or stochastic, or the schedule forecasts.
    """
    if reason := _unexportable(pipe, schedule):
        raise ExecutionError(f"no sigmas can be exported: {reason}.")
    full = rehearse(pipe, pipe.scheduler, {**call, "num_inference_steps": schedule.num_steps})
    grid = sigma_grid(full.scheduler)
    if len(grid) != schedule.num_steps + 1:
        raise ExecutionError(
            f"the pipeline must make {schedule.num_steps} steps with this call, as the schedule, got "
            f"{len(grid) - 1}."
        )
    times = np.asarray(full.scheduler.timesteps.double().cpu())[list(schedule.computed)]
    wanted = np.asarray(schedule.to_sigmas(grid.tolist()))
    for sigmas, scheduler in _candidates(full, wanted):
        kwargs = {"sigmas": list(sigmas), "num_inference_steps": schedule.num_steps}
        run = rehearse(pipe, scheduler or pipe.scheduler, {**call, **kwargs})
        if _agrees(run.scheduler, wanted, times):
            return SigmaExport(kwargs, scheduler, tuple(float(s) for s in wanted))
    raise ExecutionError(
        f"{type(pipe.scheduler).__name__} does not run through the exported noise levels: accelerate "
        "the pipeline with the executor instead."
    )


def _unexportable(pipe: Any, schedule: Schedule) -> str:
    if schedule.budget < schedule.num_steps and schedule.forecaster != "reuse":
        return f"the schedule forecasts ({schedule.forecaster!r}) and only reuse is plain sampling"
    if any(steps != schedule.computed for _, steps in schedule.branches):
        return "branches compute different steps"
    if not is_pipeline(pipe):
        return f"a diffusers pipeline is needed, got {type(pipe).__name__}"
    if "sigmas" not in inspect.signature(type(pipe).__call__).parameters:
        return f"{type(pipe).__name__} takes no `sigmas` argument"
    euler = is_a(pipe.scheduler, FLOW_EULER) or is_a(pipe.scheduler, EULER)
    if not euler or pipe.scheduler.config.get("stochastic_sampling"):
        name = type(pipe.scheduler).__name__
        return f"the sampler must be a deterministic one-step Euler sampler, got {name}"
    return ""


def _candidates(full: Rehearsal, wanted: Floats) -> Iterator[tuple[Sequence[float], Any | None]]:
    """Yield what to try, most convenient first: (sigmas, scheduler or None for the pipeline's own)."""
    scheduler, config = full.scheduler, full.scheduler.config
    if is_a(scheduler, EULER):
        yield wanted.tolist(), None  # it takes the final level too, and spaces nothing anew
        return
    s = 1.0 - wanted[:-1] if config.get("invert_sigmas") else wanted[:-1]
    yield _unshifted(s, scheduler, full.arguments.get("mu")).tolist(), None
    yield s.tolist(), type(scheduler).from_config(config, **_NEUTRAL)


def _unshifted(s: Floats, scheduler: Any, mu: float | None) -> Floats:
    """Return what ``set_timesteps`` shifts to s; its inverse for the two kinds of shift."""
    a = float(scheduler.shift)
    if scheduler.config.use_dynamic_shifting and mu is not None:
        linear = scheduler.config.get("time_shift_type") == "linear"
        return np.asarray(1.0 / (1.0 + (mu if linear else np.exp(mu)) * (1.0 / s - 1.0)))
    return np.asarray(s / (a - (a - 1.0) * s))


def _agrees(scheduler: Any, wanted: Floats, times: Floats) -> bool:
    got, got_times = sigma_grid(scheduler), np.asarray(scheduler.timesteps.double().cpu())
    if got.shape != wanted.shape:
        return False
    scale = max(1.0, float(np.abs(wanted).max()))
    close = np.abs(got - wanted).max() <= SIGMA_TOLERANCE * scale
    return bool(close and np.abs(got_times - times).max() <= TIMESTEP_TOLERANCE)


class _Enough(BaseException):
    """Ends a rehearsal; no pipeline catches it."""


@dataclass(frozen=True)
class Rehearsal:
    """What a call did to its scheduler.

    Attributes:
        scheduler: a copy of the pipeline's, its timesteps set.
        arguments: named arguments ``set_timesteps`` was given, such as ``mu``.
    """

    scheduler: Any
    arguments: dict[str, Any]


def rehearse(pipe: Any, scheduler: Any, call: Mapping[str, Any]) -> Rehearsal:
    """Run ``pipe(**call)`` on a copy of ``scheduler``, and stop once the timesteps are set.

    Encodes the prompt but never calls the denoiser; the pipeline and its generators stay as they are.

    Raises:
        ExecutionError: if the call never sets timesteps.
    """
    stage, own = copy.deepcopy(scheduler), pipe.scheduler
    seen: dict[str, Any] = {}
    original = stage.set_timesteps

    @functools.wraps(original)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        seen.update(inspect.signature(original).bind(*args, **kwargs).arguments)
        raise _Enough

    stage.set_timesteps = set_timesteps
    before = dict(vars(pipe))
    pipe.scheduler = stage
    try:
        with quiet(pipe), torch.no_grad():
            pipe(**_harmless(pipe, call))
    except _Enough:
        del stage.set_timesteps
        return Rehearsal(stage, seen)
    finally:
        pipe.scheduler = own
        vars(pipe).clear()
        vars(pipe).update(before)
    raise ExecutionError(f"{type(pipe).__name__} must set timesteps in its call, and did not.")


def _harmless(pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the call with a generator of its own, and a prompt if none is given."""
    known = inspect.signature(type(pipe).__call__).parameters
    arguments = dict(call)
    if "generator" in known:
        arguments["generator"] = torch.Generator().manual_seed(0)
    if "prompt" in known and not any(name.startswith("prompt") for name in arguments):
        arguments["prompt"] = ""
    return arguments
