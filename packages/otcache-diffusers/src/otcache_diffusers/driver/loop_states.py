"""What a loop's denoiser calls say of the sampler: its state, and the output that a step used."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcache_diffusers.driver.arguments import Arguments
from otcache_diffusers.driver.tree import tensors

#: x_t, what the step used, x_{t+1}.
Seen = tuple[Tensor, Tensor, Tensor]


@final
class LoopStates:
    r"""Makes x_t and v_t of each step out of the arguments and outputs of its calls.

    x_t is the floating argument of the step's first call that is shaped like the output. Where a call
    is given C rows a sample, chunk after chunk (guidance by a doubled batch), x_t is the first chunk and
    the output is C outputs. With P outputs o_{t,p} a step in all,

    .. math:: v_t = \sum_p \gamma_{t,p}\, o_{t,p}

    where the gains gamma are given; else the outputs side by side, of shape (samples, P, ...).

    Args:
        samples: rows of the result; None takes the state's own.
        gains: gamma, shape (N, P).
    """

    def __init__(self, samples: int | None, gains: NDArray[np.float64] | None) -> None:
        self._samples, self._gains = samples, gains
        self._place: Any = None
        self._leaf = 0
        self._guess: Tensor | None = None
        self._state: Tensor | None = None
        self._parts: list[Tensor] = []

    def begin(self) -> None:
        """Forget the last run."""
        self._place, self._leaf, self._state, self._parts = None, 0, None, []

    def state_of(self, arguments: Arguments) -> Tensor | None:
        """Return the sampler's state among the arguments of a step's first call."""
        state = arguments.state if self._place is None else arguments.at(self._place)
        self._guess = state
        return None if state is None else self._first(state)

    def open(self, state: Tensor | None) -> None:
        """Begin a step at x_t."""
        # Copies: the loop may write into what it has.
        self._state = None if state is None else state.detach().clone()
        self._parts = []

    def called(self, arguments: Arguments, output: Any) -> None:
        """Take the output of one call of the step."""
        if self._place is None:
            self._find(arguments, output)
        found = tensors(output)
        if self._state is None or self._leaf >= len(found):
            return
        prediction = _narrowed(found[self._leaf].detach(), self._state)
        self._parts += [part.clone() for part in self._chunks(prediction)]

    def close(self, step: int, following: Tensor | None) -> Seen | None:
        """Return x_t, v_t (or all outputs) and x_{t+1} of the step that is over."""
        if self._state is None or not self._parts or following is None:
            return None
        if len(self._parts) == 1:
            return self._state, self._parts[0], following
        if self._gains is None:
            return self._state, torch.stack(self._parts, dim=1), following
        return self._state, combined(self._parts, self._gains[step]), following

    def _find(self, arguments: Arguments, output: Any) -> None:
        """Choose the state and the prediction by the first call of a run."""
        for leaf, tensor in enumerate(tensors(output)):
            place = arguments.state_like(tensor)
            if place is not None:
                self._place, self._leaf = place, leaf
                if arguments.at(place) is not self._guess:  # which the call may have written into
                    self.open(self.state_of(arguments))
                return

    def _first(self, x: Tensor) -> Tensor:
        return self._chunks(x)[0]

    def _chunks(self, x: Tensor) -> tuple[Tensor, ...]:
        """Cut rows into one a sample, chunk after chunk."""
        n = self._samples or len(x)
        return x.chunk(len(x) // n) if x.ndim and len(x) > n and len(x) % n == 0 else (x,)


def combined(parts: list[Tensor], gains: NDArray[np.float64]) -> Tensor:
    """Return the sum of gains times outputs, in float32 at least."""
    wide = torch.promote_types(parts[0].dtype, torch.float32)
    total = parts[0].to(wide, copy=True).mul_(float(gains[0]))
    for part, gain in zip(parts[1:], gains[1:], strict=True):
        total.add_(part, alpha=float(gain))
    return total


def _narrowed(output: Tensor, state: Tensor) -> Tensor:
    """Leave out what a prediction has beside the state's shape: learned variances."""
    if output.ndim != state.ndim:
        return output
    wider = [d for d in range(1, state.ndim) if output.shape[d] != state.shape[d]]
    if len(wider) != 1 or output.shape[wider[0]] < state.shape[wider[0]]:
        return output
    return output.narrow(wider[0], 0, state.shape[wider[0]])
