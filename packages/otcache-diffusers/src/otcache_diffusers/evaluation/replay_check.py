"""Recorded outputs through the sampler again: does it go where it went?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.trajectory import Trajectory
from otcache_diffusers.hooks import RunInfo, StepPolicy
from otcache_diffusers.recording.rows import fold_rows, join_rows
from otcache_diffusers.recording.run import Recording

#: Relative deviation that half precision in batches of another size does not make.
OTHERWISE = 0.05
_TINY = float(np.finfo(np.float64).tiny)


class ReplayCheck(StepPolicy):
    r"""Answers every denoiser call with its recorded output, and compares the states.

    .. math:: \max_i \| x_i^{replayed} - x_i^{recorded} \| / \| x_i^{recorded} \|

    All states count: a sampler that ends in the last prediction of x_0 ends there whatever its noise was.
    The probe ran the samples in other batches, where the denoiser itself may round otherwise, so what
    *it* recorded counts only where it is more than ``OTHERWISE`` off.

    Args:
        recording: the denoiser's outputs, and the states they led to.
        trajectories: the states as the probe recorded them.
        samples: indices of the samples, one a row.

    Attributes:
        deviations: of each row.
    """

    def __init__(
        self, recording: Recording, trajectories: Sequence[Trajectory], samples: Sequence[int]
    ) -> None:
        self._recording, self._samples = recording, samples
        self._trajectories = [trajectories[n] for n in samples]
        self.deviations = np.full(len(samples), np.inf)

    def begin(self, run: RunInfo) -> None:
        self.deviations = np.zeros(len(self._samples))
        self._num_steps = run.num_steps

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
        sample, next_sample = fold_rows(len(self._samples), sample, next_sample)
        self._compare(step, sample)  # as it is used: inpainting puts the image back in between
        if step == self._num_steps - 1:
            self._compare(step + 1, next_sample)

    def end(self, completed: bool) -> None:
        if not completed:
            self.deviations[:] = np.inf

    def _compare(self, step: int, state: torch.Tensor) -> None:
        made = _host(state)
        own = _apart(made, _host(self._recording.state(step, self._samples)))
        self.deviations = np.maximum(self.deviations, own)
        if any(t.sketch_of for t in self._trajectories):
            return
        other = np.stack([t.states[step] for t in self._trajectories], dtype=np.float64)
        probed = _apart(made, other)
        self.deviations = np.maximum(self.deviations, np.where(probed > OTHERWISE, probed, 0.0))


def _apart(made: NDArray[np.float64], full: NDArray[np.float64]) -> NDArray[np.float64]:
    off = np.linalg.norm(made - full, axis=1)
    return np.asarray(off / (np.linalg.norm(full, axis=1) + _TINY))


def _host(x: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(x.detach().cpu().double().flatten(1))
