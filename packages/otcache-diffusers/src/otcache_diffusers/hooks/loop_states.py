"""Read the sampler's state, and the output that a step used, from a loop's denoiser calls."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from otcache_core.notices import notify
from otcache_diffusers.hooks.arguments import ArgumentPlace, Arguments
from otcache_diffusers.hooks.trees import tensors

#: x_t, what the step used, x_{t+1}.
Seen = tuple[Tensor, Tensor, Tensor]
SEVERAL = (
    "the denoiser predicts several tensors of the state's kind, and sample_fn returns several: forecasts "
    "are measured and fitted on the first, and used for all."
)


@final
class LoopStates:
    r"""Make x_t and v_t of each step out of the arguments and outputs of its calls.

    x_t is the floating argument of the step's first call that is shaped like the output; of several,
    the first that changes from one step to the next. If a call is given C rows a sample, chunk after
    chunk (guidance by a doubled batch), x_t is the first chunk and the output is C outputs. With P outputs
    o_{t,p} a step in all,

    .. math:: v_t = \sum_p \gamma_{t,p}\, o_{t,p}

    if the call weights gamma are given; else the outputs side by side, of shape (samples, P, ...). Complex
    tensors are seen as real ones with one dimension more.

    Args:
        samples: rows of the result; None takes the state's own.
        call_weights: gamma, shape (N, P).
    """

    def __init__(self, samples: int | None, call_weights: NDArray[np.float64] | None) -> None:
        self._samples, self._call_weights = samples, call_weights
        self.begin()

    def begin(self) -> None:
        """Forget the last run."""
        self._places: list[ArgumentPlace] = []
        self._first: list[Tensor] = []  # what was at these places in the first call
        self._shape: tuple[int, ...] = ()
        self._leaf = self._likes = 0
        self._state: Tensor | None = None
        self._parts: list[Tensor] = []

    def arrive(self, arguments: Arguments, first: bool) -> Tensor | None:
        """Return the state that a step's first call is made with; None in the first step."""
        if first:
            self.begin()
            places = arguments.candidates
            seen = [(place, arguments.at(place)) for place in places]
            # Copies: the call, and the loop, may write into what they have.
            self._first = [x.detach().clone() for _, x in seen if x is not None]
            self._places = [place for place, x in seen if x is not None]
            return None
        self._settle(arguments)
        if not self._places:
            return None
        state = arguments.at(self._places[0])
        return None if state is None else self._seen(state)

    def open(self, state: Tensor | None) -> None:
        """Begin a step at x_t."""
        self._state = None if state is None else state.detach().clone()
        self._parts = []

    def called(self, arguments: Arguments, output: Any) -> None:
        """Take the output of one call of the step."""
        found = tensors(output)
        if not self._shape:
            self._find(arguments, found)
        if self._state is None or self._leaf >= len(found):
            return
        prediction = _narrowed(_real(found[self._leaf].detach()), self._state)
        self._parts += [part.clone() for part in self._chunks(prediction)]

    def close(self, step: int, following: Tensor | None) -> Seen | None:
        """Return x_t, v_t (or all outputs) and x_{t+1} of the step that is over."""
        if self._state is None or not self._parts or following is None:
            return None
        if len(self._parts) == 1:
            return self._state, self._parts[0], following
        if self._call_weights is None:
            return self._state, torch.stack(self._parts, dim=1), following
        return self._state, combined(self._parts, self._call_weights[step]), following

    def end(self, result: Any) -> Tensor | None:
        """Return x_N of what the loop returned: its first array."""
        leaves = pytree.tree_leaves(result)
        arrays = [x for x in leaves if isinstance(x, (Tensor, np.ndarray))] or tensors(result)
        made = [_real(torch.as_tensor(x)) for x in arrays]
        if self._likes > 1 and sum(x.shape == made[0].shape for x in made) > 1:
            notify(SEVERAL)
        return made[0] if made else None

    def _find(self, arguments: Arguments, outputs: list[Tensor]) -> None:
        """Choose the prediction, and where the state may be, by the first call of a run."""
        places: list[ArgumentPlace] = []
        for exact in (True, False):
            for leaf, tensor in enumerate(outputs):
                places = places or arguments.states_like(tensor, exact)
                if places:
                    self._leaf, self._shape = leaf, tuple(_real(tensor).shape)
                    break
            if places:
                break
        if not places:
            self._places = []
            return
        kept = dict(zip(self._places, self._first, strict=True))
        self._places = [place for place in places if place in kept]
        self._first = [kept[place] for place in self._places]
        self._likes = sum(tuple(_real(x).shape) == self._shape for x in outputs)
        if self._first:
            self.open(self._seen(self._first[0]))

    def _settle(self, arguments: Arguments) -> None:
        """Keep, at the second step, the first place whose tensor is another now."""
        if len(self._places) < 2:
            return
        for place, before in zip(self._places, self._first, strict=True):
            now = arguments.at(place)
            if now is not None and (now.shape != before.shape or not torch.equal(now, before)):
                if place != self._places[0]:
                    parts, self._parts = self._parts, []
                    self.open(self._seen(before))
                    self._parts = parts
                self._places, self._first = [place], []
                return
        self._places, self._first = self._places[:1], []

    def _seen(self, x: Tensor) -> Tensor:
        """Return the state in an argument: its first chunk, without a condition beside it."""
        x = _real(x)
        wider = [d for d in range(1, x.ndim) if x.shape[d] > self._shape[d : d + 1][0]]
        if len(wider) == 1:
            x = x.narrow(wider[0], 0, self._shape[wider[0]])
        return self._chunks(x)[0]

    def _chunks(self, x: Tensor) -> tuple[Tensor, ...]:
        """Cut rows into one per sample, chunk after chunk."""
        n = self._samples or len(x)
        return x.chunk(len(x) // n) if x.ndim and len(x) > n and len(x) % n == 0 else (x,)


def combined(parts: list[Tensor], call_weights: NDArray[np.float64]) -> Tensor:
    """Return the sum of call_weights times outputs, in float32 at least."""
    wide = torch.promote_types(parts[0].dtype, torch.float32)
    total = parts[0].to(wide, copy=True).mul_(float(call_weights[0]))
    for part, gain in zip(parts[1:], call_weights[1:], strict=True):
        total.add_(part, alpha=float(gain))
    return total


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _narrowed(output: Tensor, state: Tensor) -> Tensor:
    """Omit what a prediction has beside the state's shape: learned variances."""
    if output.ndim != state.ndim:
        return output
    wider = [d for d in range(1, state.ndim) if output.shape[d] != state.shape[d]]
    if len(wider) != 1 or output.shape[wider[0]] < state.shape[wider[0]]:
        return output
    return output.narrow(wider[0], 0, state.shape[wider[0]])
