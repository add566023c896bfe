"""Step hooks that decide at every step, by what the denoiser is given, whether its outputs are used again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otcache_core.errors import ExecutionError
from otcache_diffusers.hooks import DenoiserCall, RunInfo, StepHook
from otcache_diffusers.hooks.trees import Form, examine, flatten, prediction_at, unflatten


@dataclass(frozen=True, eq=False)
class KeptOutput:
    """A computed output, open, in memory of its own.

    Args:
        leaves: of its tree.
        form: of its tree.
        at: place of the prediction among the leaves.
        state: what the denoiser was given.
    """

    leaves: Sequence[Any]
    form: Form
    at: int
    state: Tensor

    @classmethod
    def of(cls, output: Any, state: Tensor) -> KeptOutput:
        """Copy an output; the state is the caller's own copy.

        Raises:
            ExecutionError: if there is no tensor in it.
        """
        examine(output)
        leaves, form = flatten(output)
        copies = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return cls(copies, form, prediction_at(leaves), state)

    @property
    def prediction(self) -> Tensor:
        """What is forecast."""
        found: Tensor = self.leaves[self.at]
        return found

    def tree(self, prediction: Tensor) -> Any:
        """Return the output with another prediction; other tensors are copied."""
        leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        leaves[self.at] = prediction
        return unflatten(leaves, self.form)


class DecidingHook(StepHook):
    """Compute a step, or forecast it from the branch's last output, as its first call decides.

    The other branches of guidance follow the first one, as in the sources of the rules that are written this
    way. A branch that has no output yet is computed. Everything is forgotten when a run begins.

    Attributes:
        computed: steps that were computed in the latest run.
    """

    watches = False

    def __init__(self) -> None:
        self.computed: list[int] = []
        self._kept: dict[str, KeptOutput] = {}
        self._step, self._computes = -1, True

    @abstractmethod
    def start(self, run: RunInfo) -> None:
        """Forget the run before."""

    @abstractmethod
    def decide(self, step: int, state: Tensor) -> bool:
        """Return whether a step is computed; called once a step, with what the denoiser is given."""

    @abstractmethod
    def learn(self, step: int, kept: KeptOutput) -> None:
        """Take note of the first output of a step that is computed."""

    def reused(self, kept: KeptOutput, state: Tensor) -> Tensor:
        """Return the forecast of a skipped call; by default the last prediction."""
        return kept.prediction.clone()

    def begin(self, run: RunInfo) -> None:
        """Forget the run before."""
        self.computed, self._kept = [], {}
        self._step, self._computes = -1, True
        self.start(run)

    def forecast(self, call: DenoiserCall) -> Any | None:
        """Return the last output again, changed as the rule says; None if the step is computed."""
        state = state_of(call)
        if call.step != self._step:
            self._step, self._computes = call.step, self.decide(call.step, state)
        kept = self._kept.get(call.branch)
        if self._computes or kept is None:
            return None
        return kept.tree(self.reused(kept, state))

    def compute(self, call: DenoiserCall) -> Any:
        """Call the denoiser and keep its output."""
        state = state_of(call).clone()
        output = call.compute()
        kept = self._kept[call.branch] = KeptOutput.of(output, state)
        if call.step not in self.computed:
            self.computed.append(call.step)
            self.learn(call.step, kept)
        return output

    def end(self, completed: bool) -> None:
        """Release what is kept."""
        self._kept = {}


def state_of(call: DenoiserCall) -> Tensor:
    """Return the state that a denoiser is given.

    Raises:
        ExecutionError: if none of its arguments is a tensor that could be one.
    """
    state = call.position.state
    if state is None:
        raise ExecutionError(
            "the rule looks at the state that the denoiser is given, and no argument of it is a tensor: "
            "give the state as one."
        )
    return state


def rms(x: Tensor) -> float:
    """Return the root mean square; synchronizes with the device, as the rules require."""
    return float(x.detach().to(torch.promote_types(x.dtype, torch.float32)).square().mean().sqrt())


def mean_abs(x: Tensor) -> float:
    """Return the mean absolute value; synchronizes with the device, as the rules require."""
    return float(x.detach().to(torch.promote_types(x.dtype, torch.float32)).abs().mean())
