"""Wrap a user's own sampling loop around any denoiser; needs no tensor library."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.callable_denoiser import CallableDenoiser, as_denoiser, calls_of, name_of
from otcache_core.errors import ExecutionError, OtcacheError, expected
from otcache_core.loop_run import LoopObserver, LoopRun, in_steps, pauses
from otcache_core.numbers import integer, reals

_STEP_NAMES = ("num_steps", "num_inference_steps", "steps")

#: s_0 .. s_N, or a function from N to them.
Grid = Sequence[float] | NDArray[np.floating] | Callable[[int], Sequence[float]]
#: Number of steps the sampler makes, or a function that computes it from the number requested.
Steps = int | Callable[[int], int]


class Loop:
    """Wrapper around a sampling function; call the loop instead of the function.

    Args:
        sample_fn: samples a batch and returns the final state x_N. Calibration calls it as
            ``sample_fn(prompts, seeds, num_steps, **call)`` with one prompt and one seed per sample.
        denoiser: the ``nn.Module`` it calls, or any other callable (a function, a method, a
            ``functools.partial``, an object) that it calls as ``loop.denoiser(...)``.
        grid: s_0 .. s_N, or a function from N to them; if not given, calibration identifies it.
        calls_per_step: number of denoiser calls in one sampler step.
        num_steps: N, the number of steps that the sampler makes, if it is not the number requested: an
            integer, or a function of the number requested (``lambda n: 2 * n - 1`` for k-diffusion's Heun and
            DPM2).
            If it is None, N is an argument of ``sample_fn`` called ``num_steps``,
            ``num_inference_steps`` or ``steps``, or follows from ``grid``.

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
        grid: Grid | None = None,
        calls_per_step: int = 1,
        num_steps: Steps | None = None,
    ) -> None:
        if not callable(sample_fn):
            raise OtcacheError(expected("sample_fn", type(sample_fn).__name__, "a function"))
        self.calls_per_step = integer("calls_per_step", calls_per_step, 1)
        if num_steps is not None and not callable(num_steps) and not _is_step_count(num_steps):
            wanted = "an integer of at least 1, or a function of the steps requested"
            raise OtcacheError(expected("num_steps", num_steps, wanted))
        self.sample_fn = sample_fn
        self._denoiser = as_denoiser(denoiser)
        self.grid = grid if grid is None or callable(grid) else _checked_grid(grid)
        self.num_steps = num_steps
        self._observer: LoopObserver | None = None

    @property
    def denoiser(self) -> Any:
        """What ``sample_fn`` calls: the module itself, or a proxy of any other callable."""
        return self._denoiser

    @denoiser.setter
    def denoiser(self, value: Any) -> None:
        self._denoiser = as_denoiser(value)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to copy or pickle, without the observer."""
        return {**vars(self), "_observer": None}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call ``sample_fn`` and return its result; a generator or coroutine is returned wrapped."""
        steps = partial(self.steps_of, *args, **kwargs)
        run = LoopRun(self, lambda: self._observer, steps, self._start_call_check)
        if pauses(self.sample_fn):
            return in_steps(run, self.sample_fn(*args, **kwargs), begun=False)
        run.begin()
        try:
            with run.inside():
                result = self.sample_fn(*args, **kwargs)
        except BaseException:
            run.fail()
            raise
        wrapped_steps = in_steps(run, result, begun=True)
        if wrapped_steps is not None:
            return wrapped_steps
        run.end(result)
        return result

    def _start_call_check(self) -> Callable[[], None]:
        """Count calls now; return the check that the sampler called the denoiser through its proxy."""
        denoiser = self._denoiser
        if not isinstance(denoiser, CallableDenoiser):
            return lambda: None
        return partial(_check_calls, denoiser, calls_of(denoiser))

    def steps_of(self, *args: Any, **kwargs: Any) -> int | None:
        """Return N of a call with these arguments, from ``num_steps``, the arguments or the grid; else None.

        Raises:
            OtcacheError: if ``num_steps`` is a function that fails, or returns no positive integer.
        """
        if self.num_steps is not None and not callable(self.num_steps):
            return int(self.num_steps)
        requested = self._requested(*args, **kwargs)
        if requested is not None:
            return self.steps_made(requested)
        if self.grid is not None and not callable(self.grid):
            return len(self.grid) - 1
        return None

    def steps_made(self, num_steps: int) -> int:
        """Return N, the number of steps that the sampler makes if ``num_steps`` are requested.

        Args:
            num_steps: number of steps requested.

        Raises:
            OtcacheError: if the loop's own ``num_steps`` is a function that fails, or returns no positive
                integer.
        """
        if self.num_steps is None:
            return num_steps
        steps: Any = self.num_steps
        if callable(self.num_steps):
            try:
                steps = self.num_steps(num_steps)
            except Exception as error:  # the user's own function
                steps = f"{type(error).__name__}: {error}"
        if not _is_step_count(steps):
            advice = "num_steps= of otcache.loop(...) returns the steps that the sampler makes."
            what = f"num_steps({num_steps})"
            raise OtcacheError(expected(what, steps, "an integer of at least 1", advice))
        return int(steps)

    def _requested(self, *args: Any, **kwargs: Any) -> int | None:
        """Return the number of steps requested in a call, found by the argument's name; else None."""
        try:
            signature = inspect.signature(self.sample_fn)
        except ValueError:  # a compiled function without a signature has keyword arguments alone
            return _steps_among(kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        named = dict(bound.arguments)
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:  # **kwargs, whatever its name
                named |= named.pop(parameter.name)
        return _steps_among(named)

    def grid_for(self, num_steps: int) -> NDArray[np.float64]:
        """Return s_0 .. s_N of a run of N steps; all NaN if the grid is unknown or of another length.

        Raises:
            OtcacheError: if the loop's ``grid`` is a function and returns no sequence of numbers.
        """
        grid = self.grid(num_steps) if callable(self.grid) else self.grid
        points = [] if grid is None else reals(f"grid({num_steps})", grid)
        if len(points) != num_steps + 1:
            return np.full(num_steps + 1, np.nan)
        return np.asarray(points, dtype=np.float64)

    def observe(self, observer: LoopObserver | None) -> None:
        """Report each run to ``observer`` from now on; None to stop.

        Raises:
            ExecutionError: if there is an observer already.
        """
        if observer is not None and self._observer is not None:
            raise ExecutionError(
                "this loop is already accelerated or recorded by otcache: leave that context first, or call "
                "handle.remove(); otcache.enabled(loop).remove() does it if the handle or the context is "
                "out of reach."
            )
        self._observer = observer


def loop(
    sample_fn: Callable[..., Any],
    *,
    denoiser: Any,
    grid: Grid | None = None,
    calls_per_step: int = 1,
    num_steps: Steps | None = None,
) -> Loop:
    """Wrap a sampling function of your own, to calibrate and accelerate it; see :class:`Loop`."""
    return Loop(sample_fn, denoiser, grid, calls_per_step, num_steps)


def _steps_among(named: Mapping[str, Any]) -> int | None:
    return next((int(named[n]) for n in _STEP_NAMES if isinstance(named.get(n), Integral)), None)


def _checked_grid(grid: Any) -> Any:
    """Check that a grid is a sequence of numbers; return it as it is, or as a list if it has no length."""
    points = reals("grid", grid)
    return grid if hasattr(grid, "__len__") else points


def _is_step_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _check_calls(denoiser: CallableDenoiser, before: int) -> None:
    if calls_of(denoiser) == before:
        raise ExecutionError(
            f"sample_fn must call {name_of(denoiser)} as loop.denoiser(...), got a run without such "
            "a call: a denoiser that is not a torch module is intercepted only there; call it as "
            "loop.denoiser(...), with loop what otcache.loop(...) returned."
        )
