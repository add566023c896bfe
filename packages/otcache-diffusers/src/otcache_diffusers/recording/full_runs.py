"""What the evaluator keeps of full runs, in memory or on the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from otcache_core.notices import notify
from otcache_core.storage.recordings import RecordingStorage, check_space, gigabytes, unwritable
from otcache_diffusers.hooks import RunInfo, StepHook, tensors
from otcache_diffusers.hooks.trees import Placeholder, flatten, unflatten
from otcache_diffusers.recording.rows import fold_rows, split_rows


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


class RecordingPolicy(StepHook):
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


class Shelf:
    """A temporary file of tensors, gone when neither it nor anything on it is needed.

    Args:
        folder: where the file is made.

    Raises:
        FileError: if no file can be made there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._end = folder, 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, prefix="otcache-", suffix=".rows")  # noqa: SIM115  # lives as long as this object
        except OSError as error:
            raise unwritable(folder, error) from error

    def another(self) -> Shelf:
        """An empty one in the same folder."""
        return Shelf(self._folder)

    def put(self, tree: Any) -> Any:
        """Put the tensors of a tree away; :func:`loaded` gives them back, bit for bit.

        Raises:
            FileError: if the disk is full.
        """
        leaves, form = flatten(tree)
        away = [self._put(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return unflatten(away, form)

    def fetch(self, at: int, into: torch.Tensor) -> None:
        """Read the bytes from ``at`` on into a contiguous tensor on the host."""
        self._file.seek(at)
        self._file.readinto(_bytes(into))

    def _put(self, leaf: torch.Tensor) -> Shelved:
        data = _bytes(leaf.detach().cpu().contiguous())
        try:
            self._file.seek(self._end)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise unwritable(self._folder, error) from error
        found = Shelved(self, self._end, leaf.shape, leaf.dtype, leaf.device)
        self._end += len(data)
        return found


@dataclass(frozen=True, eq=False)
class Shelved(Placeholder):
    """A tensor on a shelf."""

    shelf: Shelf
    at: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def load(self) -> torch.Tensor:
        """A fresh copy, on the device that the tensor came from."""
        made = torch.empty(self.shape, dtype=self.dtype)
        self.shelf.fetch(self.at, made)
        return made.to(self.device)

    def columns(self, wanted: slice) -> torch.Tensor:
        """Some columns of a tensor of two dimensions, on the host, without reading the others."""
        rows, width = self.shape
        made = torch.empty(rows, wanted.stop - wanted.start, dtype=self.dtype)
        for n, row in enumerate(made):
            self.shelf.fetch(self.at + self.dtype.itemsize * (n * width + wanted.start), row)
        return made


def loaded(tree: Any) -> Any:
    """A tree with what is on a shelf fetched; tensors in memory stay as they are."""
    leaves, form = flatten(tree)
    if not any(isinstance(leaf, Shelved) for leaf in leaves):
        return tree
    return unflatten([leaf.load() if isinstance(leaf, Shelved) else leaf for leaf in leaves], form)


def _bytes(x: torch.Tensor) -> memoryview:
    return x.reshape(-1).view(torch.uint8).numpy().data
