"""A sampling loop of the user's own around any denoiser; needs no tensor library."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import ExecutionError, OtcacheError, expected

_STEP_NAMES = ("num_steps", "num_inference_steps", "steps")


class LoopObserver(Protocol):
    """Told when a loop begins and returns."""

    def loop_begins(self, num_steps: int | None) -> None: ...

    def loop_ends(self, result: Any) -> None: ...

    def loop_fails(self) -> None: ...


class Loop:
    """A sampler that is a plain function; call it instead of the function.

    Args:
        sample_fn: samples a batch and returns the final state x_N. To be calibrated it is called as
            ``sample_fn(prompts, seeds, num_steps, **call)`` with one prompt and one seed a sample.
        denoiser: the ``nn.Module`` it calls; its first tensor argument is taken for the sampler's state.
        grid: s_0 .. s_N, or a function from N to them; where not given, calibration identifies it.
        calls_per_step: denoiser calls of one sampler step.
        num_steps: N, where neither an argument of ``sample_fn`` (``num_steps``,
            ``num_inference_steps`` or ``steps``) nor ``grid`` tells it.

    Raises:
        OtcacheError: if an argument is out of range.

    Examples:
        >>> def sample(prompts, seeds, num_steps):
        ...     x = noise(seeds)
        ...     for i in range(num_steps):
        ...         x = x - net(x, 1 - i / num_steps) / num_steps
        ...     return x
        >>> pipe = Loop(sample, net)  # doctest: +SKIP
    """

    def __init__(
        self,
        sample_fn: Callable[..., Any],
        denoiser: Any,
        grid: Sequence[float]
        | NDArray[np.floating]
        | Callable[[int], Sequence[float]]
        | None = None,
        calls_per_step: int = 1,
        num_steps: int | None = None,
    ) -> None:
        if not callable(denoiser):
            raise OtcacheError(expected("denoiser", type(denoiser).__name__, "a torch.nn.Module"))
        if calls_per_step < 1:
            raise OtcacheError(expected("calls_per_step", calls_per_step, "at least 1"))
        self._sample_fn = sample_fn
        self.denoiser = denoiser
        self.grid = grid
        self.calls_per_step = calls_per_step
        self.num_steps = num_steps
        self._observer: LoopObserver | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Sample: whatever ``sample_fn`` takes and returns."""
        observer = self._observer
        if observer is None:
            return self._sample_fn(*args, **kwargs)
        observer.loop_begins(self.steps_of(*args, **kwargs))
        try:
            result = self._sample_fn(*args, **kwargs)
        except BaseException:
            observer.loop_fails()
            raise
        observer.loop_ends(result)
        return result

    def steps_of(self, *args: Any, **kwargs: Any) -> int | None:
        """N of a call with these arguments, as far as arguments, grid or ``num_steps`` tell."""
        signature = inspect.signature(self._sample_fn)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        named = dict(bound.arguments)
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:  # whatever its name
                named |= named.pop(parameter.name)
        for name in _STEP_NAMES:
            if isinstance(named.get(name), Integral):
                return int(named[name])
        if self.grid is not None and not callable(self.grid):
            return len(self.grid) - 1
        return self.num_steps

    def grid_for(self, num_steps: int) -> NDArray[np.float64]:
        """s_0 .. s_N of a run of N steps; all NaN where it is not known."""
        grid = self.grid(num_steps) if callable(self.grid) else self.grid
        if grid is None or len(grid) != num_steps + 1:
            return np.full(num_steps + 1, np.nan)
        return np.asarray(grid, dtype=np.float64)

    def observe(self, observer: LoopObserver | None) -> None:
        """Tell ``observer`` about calls; None to stop.

        Raises:
            ExecutionError: if there is an observer already.
        """
        if observer is not None and self._observer is not None:
            raise ExecutionError(
                "this loop is already accelerated or recorded by otcache: leave that context first."
            )
        self._observer = observer


def loop(
    sample_fn: Callable[..., Any],
    *,
    denoiser: Any,
    grid: Sequence[float] | NDArray[np.floating] | Callable[[int], Sequence[float]] | None = None,
    calls_per_step: int = 1,
    num_steps: int | None = None,
) -> Loop:
    """A sampling loop of your own, to calibrate and accelerate; see :class:`Loop` for the arguments."""
    return Loop(sample_fn, denoiser, grid, calls_per_step, num_steps)
