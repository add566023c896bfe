"""The policy of the probe: compute everything, and keep what the sampler saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.errors import ExecutionError
from otcache_core.trajectory import Trajectory
from otcache_diffusers.driver import RunInfo, StepPolicy

Floats = NDArray[np.float32]
#: An Euler step whose state and output are what they seem leaves about 1e-6 in float32.
MAX_RESIDUAL = 1e-3


class Recorder(StepPolicy):
    """Keeps x_i and v_i of one batched run on the host, in float32."""

    def __init__(self) -> None:
        self.run: RunInfo | None = None
        self.completed = 0
        self.calls: Counter[str] = Counter()
        self.warnings: list[str] = []
        self._states: list[Floats] = []
        self._outputs: list[Floats] = []
        self._last: Floats | None = None
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
        self._rounding = max(_rounding(x.dtype) for x in (sample, model_output, next_sample))
        self._states.append(_host(sample))
        self._outputs.append(_host(model_output))
        self._last = _host(next_sample)

    def end(self, completed: bool) -> None:
        whole = self.run is not None and len(self._states) == self.run.num_steps
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
            ExecutionError: if the batch has another size.
        """
        states = np.stack([*self._states, self._end()])
        if states.shape[1] != len(labels):
            raise ExecutionError(
                f"the sampler's state must have one row a sample ({len(labels)}), got "
                f"{states.shape[1]}: leave num_images_per_prompt at 1, or use a diffusers pipeline."
            )
        h = np.diff(grid).reshape(-1, 1, 1)
        outputs = np.diff(states, axis=0) / h if implied else np.stack(self._outputs)
        for n, label in enumerate(labels):
            x = np.ascontiguousarray(states[:, n])
            v = np.ascontiguousarray(outputs[:, n], dtype=np.float32)
            yield Trajectory(grid, x, v, dict(self.calls), label, self._rounding)

    def identified_grid(self) -> NDArray[np.float64]:
        r"""s_i from the states alone, by least squares over the batch.

        .. math:: x_{i+1} - x_i = h_i v_i, \qquad s_i = -\sum_{j \ge i} h_j, \qquad s_N = 0

        Raises:
            ExecutionError: if the steps do not have this form: more than 1e-3 of them is left over.
        """
        x = np.stack([*self._states, self._end()]).astype(np.float64)
        v = np.stack(self._outputs).astype(np.float64)
        dx = np.diff(x, axis=0)
        h = (dx * v).sum((1, 2)) / np.maximum((v * v).sum((1, 2)), np.finfo(float).tiny)
        left = np.linalg.norm(dx - h[:, None, None] * v)
        residual = float(left / max(np.linalg.norm(dx), np.finfo(float).tiny))
        if not residual <= MAX_RESIDUAL:
            raise ExecutionError(
                f"steps must be x + h v to {MAX_RESIDUAL:g}, got a relative residual of {residual:.2g}: "
                "the denoiser's first tensor argument is not the sampler's state, or it is no "
                "one-step sampler; give otcache.loop(...) its grid=, or use a diffusers pipeline."
            )
        return np.append(-np.cumsum(h[::-1])[::-1], 0.0)

    def _end(self) -> Floats:
        if self._last is None:
            raise ExecutionError("the loop must return its final state, got no tensor.")
        return self._last


def _rounding(dtype: torch.dtype) -> float:
    """Half a unit in the last place, relative; at least float32's, in which states are kept."""
    return max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) / 2


def _host(x: torch.Tensor) -> Floats:
    """Rows of float32 on the host; always a copy, since samplers may write in place."""
    flat = x.detach().reshape(len(x), -1)
    return np.asarray(flat.to("cpu", torch.float32, copy=True))
