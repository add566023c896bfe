"""What the polynomial is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from otcache_core.errors import ExecutionError
from otcache_diffusers.baselines.teacache.first_norm import looked_at
from otcache_diffusers.baselines.teacache.policy import lists_of
from otcache_diffusers.baselines.teacache.rule import change
from otcache_diffusers.hooks import RunInfo, StepPolicy
from otcache_diffusers.hooks.tree import first_tensor


class ChangeRecorder(StepPolicy):
    """Computes everything, and keeps how much modulated input and output change from step to step.

    Args:
        denoisers: by name.

    Attributes:
        inputs: changes d_1 .. d_{N-1} of the modulated input, one list a run and branch.
        outputs: those of the denoiser's output.
    """

    watches = False

    def __init__(self, denoisers: Mapping[str, nn.Module]) -> None:
        self._lists = lists_of(denoisers)
        self._latest: dict[str, tuple[Tensor, Tensor]] = {}
        self.inputs: list[list[float]] = []
        self.outputs: list[list[float]] = []
        self._places: dict[str, int] = {}

    def begin(self, run: RunInfo) -> None:
        self._latest, self._places = {}, {}

    def before(self, step: int, branch: str) -> Any | None:
        return None

    def observe(self, step: int, branch: str, compute: Callable[[], Any]) -> Any:
        look = looked_at(self._lists, compute)
        output = first_tensor(look.output)
        assert output is not None, "a denoiser returns tensors"
        if branch in self._latest:
            m, v = self._latest[branch]
            self.inputs[self._places[branch]].append(change(look.modulated, m))
            self.outputs[self._places[branch]].append(change(output, v))
        else:
            self._places[branch] = len(self.inputs)
            self.inputs.append([])
            self.outputs.append([])
        self._latest[branch] = look.modulated, output.clone()
        return look.output

    def after(self, step: int, branch: str, output: Any) -> None:
        """Everything was seen in ``observe``."""

    def stepped(self, step: int, sample: Tensor, model_output: Tensor, next_sample: Tensor) -> None:
        """The rule does not look at the sampler's state."""

    def end(self, completed: bool) -> None:
        self._latest = {}

    def warn(self, message: str) -> None:
        """What goes wrong while measuring is an error."""
        raise ExecutionError(f"TeaCache: {message}")
