"""The policy of the probe: compute everything, and keep what the sampler saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.errors import ExecutionError
from otcache_core.keep import Keep
from otcache_core.trajectory import Trajectory
from otcache_diffusers.driver import RunInfo, StepPolicy
from otcache_diffusers.kept_run import Floats, KeptRun
from otcache_diffusers.step_grid import identified_grid


class Recorder(StepPolicy):
    """Keeps x_i and v_i of one batched run on the host, in float32.

    Args:
        keep: where; decided at the first step, when the size is known, and told in a notice if the
            run goes to the disk or is sketched.
    """

    def __init__(self, keep: Keep | None = None) -> None:
        self.run: RunInfo | None = None
        self.completed = 0
        self.calls: Counter[str] = Counter()
        self.warnings: list[str] = []
        self._keep = keep or Keep()
        self._kept: KeptRun | None = None
        self._rounding = 0.0

    def begin(self, run: RunInfo) -> None:
        self.run = run

    def before(self, step: int, branch: str) -> Any | None:
        return None

    def after(self, step: int, branch: str, output: Any) -> None:
        self.calls[branch] += 1

    def stepped(
        self,
        step: int,
        sample: torch.Tensor,
        model_output: torch.Tensor,
        next_sample: torch.Tensor,
    ) -> None:
        if not sample.shape == model_output.shape == next_sample.shape:
            shapes = [tuple(x.shape) for x in (sample, model_output, next_sample)]
            raise ExecutionError(
                f"step {step}: state, denoiser output and next state must have one shape, got "
                f"{shapes}: the first tensor argument is not the sampler's state, or the loop does "
                "not return it; use a diffusers pipeline, or a loop that calls the denoiser with x."
            )
        assert self.run is not None
        self._rounding = max(_rounding(x.dtype) for x in (sample, model_output, next_sample))
        state = _host(sample)
        if self._kept is None:
            self._kept = KeptRun(self.run.num_steps, state.shape, self._keep)
        self._kept.add(step, state, _host(model_output))
        if step == self.run.num_steps - 1:
            self._kept.add_end(step, _host(next_sample))

    def end(self, completed: bool) -> None:
        whole = self.run is not None and self._kept is not None and self._kept.ended
        self.completed += completed and whole

    def warn(self, message: str) -> None:
        """Keep it: what goes wrong while recording is an error to its reader."""
        self.warnings.append(message)

    def trajectories(
        self, labels: Sequence[str], grid: NDArray[np.float64], implied: bool
    ) -> Iterator[Trajectory]:
        """One trajectory a sample.

        Args:
            labels: one a sample of the batch.
            grid: s_0 .. s_N.
            implied: take v_i from the states, (x_{i+1} - x_i) / (s_{i+1} - s_i), where several
                calls make up one output.

        Raises:
            ExecutionError: if the batch has another size, or the run did not come to its end.
        """
        kept = self._whole()
        states = kept.states()
        if len(states) != len(labels):
            raise ExecutionError(
                f"the sampler's state must have one row a sample ({len(labels)}), got "
                f"{len(states)}: leave num_images_per_prompt at 1, or use a diffusers pipeline."
            )
        outputs = kept.implied_outputs(grid) if implied else kept.outputs()
        for x, v, label in zip(states, outputs, labels, strict=True):
            calls = dict(self.calls)
            yield Trajectory(grid, x, v, calls, label, self._rounding, kept.sketch_of)

    def identified_grid(self) -> NDArray[np.float64]:
        """s_i from the states alone (:func:`~otcache_diffusers.step_grid.identified_grid`).

        Raises:
            ExecutionError: if the steps do not have the form x + h v, or there is no end.
        """
        kept = self._whole()
        return identified_grid(kept.states(), kept.outputs())

    def _whole(self) -> KeptRun:
        if self._kept is None or not self._kept.ended:
            raise ExecutionError("the loop must return its final state, got no tensor.")
        return self._kept


def _rounding(dtype: torch.dtype) -> float:
    """Half a unit in the last place, relative; at least float32's, in which states are kept."""
    return max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) / 2


def _host(x: torch.Tensor) -> Floats:
    """Rows of float32 on the host; not copied where they are there already."""
    return np.asarray(x.detach().reshape(len(x), -1).to("cpu", torch.float32))
