"""Recorded outputs through the sampler again: does it go where it went?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.trajectory import Trajectory
from otcache_diffusers.driver import RunInfo, StepPolicy
from otcache_diffusers.recording import Recording
from otcache_diffusers.rows import join_rows

_TINY = float(np.finfo(np.float64).tiny)


class ReplayCheck(StepPolicy):
    r"""Answers every denoiser call with its recorded output, and compares the states.

    .. math:: \max_i \| x_i^{replayed} - x_i^{recorded} \| / \| x_i^{recorded} \|

    All states count: a sampler that ends in the last prediction of x_0 ends there whatever its noise was.

    Args:
        recording: the denoiser's outputs.
        trajectories: the states, as the probe recorded them; of sketches, as the recording has them.
        samples: indices of the samples, one a row.

    Attributes:
        deviations: of each row.
    """

    def __init__(
        self, recording: Recording, trajectories: Sequence[Trajectory], samples: Sequence[int]
    ) -> None:
        self._recording, self._samples = recording, samples
        self._trajectories = [trajectories[n] for n in samples]
        self._sketched = any(t.sketch_of for t in self._trajectories)
        self.deviations = np.full(len(samples), np.inf)

    def begin(self, run: RunInfo) -> None:
        self.deviations = np.zeros(len(self._samples))

    def before(self, step: int, branch: str) -> Any | None:
        return join_rows(self._recording.outputs(step, branch, self._samples))

    def after(self, step: int, branch: str, output: Any) -> None:
        """Nothing is computed."""

    def stepped(
        self,
        step: int,
        sample: torch.Tensor,
        model_output: torch.Tensor,
        next_sample: torch.Tensor,
    ) -> None:
        if step == 0:
            self._compare(0, sample)
        self._compare(step + 1, next_sample)

    def end(self, completed: bool) -> None:
        if not completed:
            self.deviations[:] = np.inf

    def _compare(self, step: int, state: torch.Tensor) -> None:
        made, full = _host(state), self._recorded(step)
        found = np.linalg.norm(made - full, axis=1) / (np.linalg.norm(full, axis=1) + _TINY)
        self.deviations = np.maximum(self.deviations, found)

    def _recorded(self, step: int) -> NDArray[np.float64]:
        if self._sketched:
            return _host(self._recording.state(step, self._samples))
        return np.stack([t.states[step] for t in self._trajectories], dtype=np.float64)


def _host(x: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(x.detach().cpu().double().flatten(1))
