"""What the evaluator remembers of the full runs: each sample's own denoiser outputs, states and outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from otcache_diffusers.driver import RunInfo, StepPolicy
from otcache_diffusers.rows import split_rows


@dataclass
class Recording:
    """Full runs, sample by sample.

    Attributes:
        raw: raw[(step, branch)][n] is the denoiser's output for sample n, leaves of shape (C, ...).
        guided: guided[step][n] is v_step as the sampler saw it.
        states: states[step][n] is x_step; the last is the result.
        notes: what was done otherwise than is best, and why.

    Outputs are in the run's quantity: velocity predictions are kept as epsilon.
    """

    raw: dict[tuple[int, str], list[Any]] = field(default_factory=dict)
    guided: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    states: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class RecordingPolicy(StepPolicy):
    """Computes everything and appends what it sees to a :class:`Recording`.

    Args:
        recording: grows by the samples of each run.
        num_samples: samples of the coming run.
    """

    def __init__(self, recording: Recording, num_samples: int) -> None:
        self._recording = recording
        self._num_samples = num_samples

    def begin(self, run: RunInfo) -> None:
        pass

    def before(self, step: int, branch: str) -> Any | None:
        return None

    def after(self, step: int, branch: str, output: Any) -> None:
        rows = self._recording.raw.setdefault((step, branch), [])
        rows.extend(split_rows(output, self._num_samples))

    def stepped(
        self,
        step: int,
        sample: torch.Tensor,
        model_output: torch.Tensor,
        next_sample: torch.Tensor,
    ) -> None:
        record = self._recording
        record.guided.setdefault(step, []).extend(model_output.unbind(0))
        record.states.setdefault(step, []).extend(sample.unbind(0))
        record.states.setdefault(step + 1, [])
        self._last = (step + 1, next_sample)

    def end(self, completed: bool) -> None:
        if completed:
            step, result = self._last
            self._recording.states[step].extend(result.unbind(0))

    def note(self, message: str) -> None:
        """Keep it, once."""
        if message not in self._recording.notes:
            self._recording.notes.append(message)
