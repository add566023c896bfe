"""What the evaluator remembers of the full runs: each sample's own denoiser outputs, states and outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from otcache_core.notices import notify
from otcache_core.storage.recordings import RecordingStorage, check_space, gigabytes
from otcache_diffusers.hooks import RunInfo, StepPolicy, tensors
from otcache_diffusers.recording.rows import fold_rows, split_rows
from otcache_diffusers.recording.shelf import Shelf, loaded


@dataclass
class Recording:
    """Full runs, sample by sample.

    Attributes:
        raw: raw[(step, branch)][n] is the denoiser's output for sample n, leaves of shape (C, ...).
        guided: guided[step][n] is v_step as the sampler saw it.
        states: states[step][n] is x_step; the last is the result.
        notes: what was done otherwise than is best, and why.
        shelf: where rows are put away; None keeps them in memory, on the run's device.

    Outputs are in the run's quantity: velocity predictions are kept as epsilon. A row may be on the
    shelf: :meth:`outputs` and :meth:`state` fetch it.
    """

    raw: dict[tuple[int, str], list[Any]] = field(default_factory=dict)
    guided: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    states: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    shelf: Shelf | None = None

    def outputs(self, step: int, branch: str, samples: Sequence[int]) -> list[Any]:
        """What the denoiser returned at a step for some samples, one tree each."""
        rows = self.raw[step, branch]
        return [loaded(rows[n]) for n in samples]

    def state(self, step: int, samples: Sequence[int]) -> torch.Tensor:
        """x_step of some samples, shape (samples, ...)."""
        rows = self.states[step]
        return torch.stack([loaded(rows[n]) for n in samples])

    def used(self, step: int, samples: Sequence[int]) -> torch.Tensor:
        """v_step of some samples, shape (samples, ...)."""
        rows = self.guided[step]
        return torch.stack([loaded(rows[n]) for n in samples])

    def put(self, rows: Sequence[Any]) -> Sequence[Any]:
        """The rows as they are kept."""
        return rows if self.shelf is None else [self.shelf.put(row) for row in rows]


class RecordingPolicy(StepPolicy):
    """Computes everything and appends what it sees to a :class:`Recording`.

    Args:
        recording: grows by the samples of each run.
        num_samples: samples of the coming run.
        total: samples of all runs.
        keep: how much of them memory may take; decided after the first step of the first run.
    """

    def __init__(
        self,
        recording: Recording,
        num_samples: int,
        total: int = 0,
        keep: RecordingStorage | None = None,
    ) -> None:
        self._recording = recording
        self._num_samples, self._total = num_samples, max(total, num_samples)
        self._keep = keep
        self._num_steps = 0

    def begin(self, run: RunInfo) -> None:
        self._num_steps = run.num_steps

    def before(self, step: int, branch: str) -> Any | None:
        return None

    def after(self, step: int, branch: str, output: Any) -> None:
        rows = self._recording.raw.setdefault((step, branch), [])
        rows.extend(self._recording.put(split_rows(output, self._num_samples)))

    def stepped(
        self,
        step: int,
        sample: torch.Tensor,
        model_output: torch.Tensor,
        next_sample: torch.Tensor,
    ) -> None:
        record = self._recording
        sample, model_output, next_sample = fold_rows(
            self._num_samples, sample, model_output, next_sample
        )
        if self._keep is not None and not record.states:
            self._choose(self._keep, sample, model_output)
        # Copies: others may own the memory, and write into it.
        record.guided.setdefault(step, []).extend(record.put(model_output.clone().unbind(0)))
        record.states.setdefault(step, []).extend(record.put(sample.clone().unbind(0)))
        record.states.setdefault(step + 1, [])
        self._last = (step + 1, next_sample)

    def end(self, completed: bool) -> None:
        if completed:
            step, result = self._last
            self._recording.states[step].extend(self._recording.put(result.clone().unbind(0)))

    def note(self, message: str) -> None:
        """Keep it, once."""
        if message not in self._recording.notes:
            self._recording.notes.append(message)

    def _choose(self, keep: RecordingStorage, *seen: torch.Tensor) -> None:
        """Put all on a shelf if what one step left, times all steps and samples, is too much."""
        record = self._recording
        step = sum(leaf.nbytes for leaf in (*seen, *tensors(record.raw)))
        size = self._num_steps * self._total * step // self._num_samples
        if size <= keep.memory_bytes:
            return
        folder = Path(keep.folder or tempfile.gettempdir())
        check_space(folder, size)
        notify(
            f"evaluating keeps {gigabytes(size)} of full runs (states and outputs, and those of every "
            f"branch) on the disk, in {folder}, instead of on the pipeline's device "
            "(RecordingStorage(memory_bytes=...)).",
        )
        record.shelf = Shelf(folder)
        record.raw = {key: list(record.put(rows)) for key, rows in record.raw.items()}
