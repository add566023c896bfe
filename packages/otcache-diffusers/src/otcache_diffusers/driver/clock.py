"""Where in a run we are, told by a pipeline's scheduler."""

from __future__ import annotations

import functools
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch

from otcache_core.errors import ExecutionError, OtcacheNotice
from otcache_diffusers.driver.arguments import Arguments
from otcache_diffusers.driver.conductor import Conductor
from otcache_diffusers.driver.grid import sigma_grid
from otcache_diffusers.driver.policy import RunInfo
from otcache_diffusers.driver.space_of import output_space, predicts_velocity

_REPLACED = (
    "the pipeline's scheduler was replaced after it was accelerated: its runs are computed in full. "
    "Set the scheduler first, then enter the context."
)


class Clock(ABC):
    """Announces runs to a conductor and advances its steps; a context manager."""

    @abstractmethod
    def arrive(self, arguments: Arguments) -> None:
        """The denoiser is about to be asked for."""

    @abstractmethod
    def left(self, output: Any) -> None:
        """The denoiser's output, computed or forecast, goes back to the sampler."""

    @abstractmethod
    def __enter__(self) -> Clock: ...

    @abstractmethod
    def __exit__(self, *error: object) -> None: ...


class _Tap:
    """A method of one scheduler, replaced on the instance; a deep copy has the plain one."""

    def __init__(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        self._owner, self._name = owner, name
        self._around = functools.partial(around, getattr(owner, name))
        functools.update_wrapper(self, getattr(owner, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._around(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> MethodType:
        return MethodType(getattr(type(self._owner), self._name), memo[id(self._owner)])


class SchedulerClock(Clock):
    """The position is the number of ``scheduler.step`` calls since ``set_timesteps``.

    So duplicate timesteps (Heun, PNDM) and bf16 collisions do not matter. The timestep the denoiser
    is given is compared on the device, and read once on exit.

    Args:
        pipeline: whose scheduler it is. The scheduler's ``step`` and ``set_timesteps`` are wrapped on
            the instance, and ``scale_model_input`` where the denoiser predicts a velocity.
        conductor: what is told.
        renew: called when a run is announced.

    Raises:
        ExecutionError: on entry, if the scheduler is already watched.
    """

    def __init__(self, pipeline: Any, conductor: Conductor, renew: Callable[[], None]) -> None:
        self._pipeline, self._conductor, self._renew = pipeline, conductor, renew
        self._scheduler = pipeline.scheduler

    def __enter__(self) -> SchedulerClock:
        if any(isinstance(value, _Tap) for value in vars(self._scheduler).values()):
            raise ExecutionError(
                f"{type(self._scheduler).__name__} is already watched by otcache: give each "
                "pipeline a scheduler of its own."
            )
        known = vars(self._scheduler)
        taps = {"step": self._step, "set_timesteps": self._set_timesteps}
        if predicts_velocity(self._scheduler) and hasattr(self._scheduler, "scale_model_input"):
            taps["scale_model_input"] = self._scale
        self._taps = tuple(taps)
        self._before = {name: known[name] for name in taps if name in known}
        self._signature = inspect.signature(self._scheduler.step)
        for name, around in taps.items():
            vars(self._scheduler)[name] = _Tap(self._scheduler, name, around)
        return self

    def __exit__(self, *error: object) -> None:
        for name in self._taps:
            vars(self._scheduler).pop(name, None)
        vars(self._scheduler).update(self._before)
        if error[0] is None and self._conductor.times.failed():
            self._conductor.warn(
                "the denoiser was called at other timesteps than the scheduler's: a callback or "
                "another pipeline moved the clock, so steps may have been mistaken."
            )

    def arrive(self, arguments: Arguments) -> None:
        """See that the scheduler that tells is still the pipeline's."""
        if self._pipeline.scheduler is not self._scheduler:
            self._conductor.finish(False)
            self._conductor.warn(_REPLACED)
            warnings.warn(_REPLACED, OtcacheNotice, stacklevel=2)

    def left(self, output: Any) -> None:
        """Nothing to do: the scheduler tells."""

    def _set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        self._renew()
        self._conductor.announce(self._run_info)
        return result

    def _scale(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._conductor.scaled = original(*args, **kwargs)
        return self._conductor.scaled

    def _step(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = self._signature.bind(*args, **kwargs).arguments
        result = original(*args, **kwargs)
        following = result[0] if isinstance(result, tuple) else result.prev_sample
        self._conductor.advance((given["sample"], given["model_output"], following))
        return result

    def _run_info(self, arguments: Arguments) -> RunInfo:
        start = self._start(arguments)
        self._conductor.times.begin(self._scheduler.timesteps[start:])
        grid = sigma_grid(self._scheduler)[start:]
        return RunInfo(len(grid) - 1, grid, output_space(self._scheduler, start))

    def _start(self, arguments: Arguments) -> int:
        """Position of the first step in ``timesteps``: not 0 where a picture is the start."""
        begin = getattr(self._scheduler, "begin_index", 0)
        passed = arguments.timestep
        if hasattr(self._scheduler, "begin_index") or not isinstance(passed, torch.Tensor):
            return int(begin or 0)
        # The first call of a run is always computed, so asking the device is allowed here.
        times = torch.as_tensor(self._scheduler.timesteps).cpu()
        same = (times == passed.reshape(-1)[0].cpu()).nonzero()
        return int(same[0]) if len(same) else 0
