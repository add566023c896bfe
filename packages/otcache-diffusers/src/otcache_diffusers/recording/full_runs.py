"""What the evaluator keeps of full runs, in memory or on the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.notices import notify
from otcache_core.storage.recordings import RecordingStorage, check_space, gigabytes, unwritable
from otcache_diffusers.hooks import DenoiserCall, RunInfo, Severity, StepHook, tensors
from otcache_diffusers.hooks.loop_states import combined
from otcache_diffusers.hooks.trees import Placeholder, flatten, unflatten
from otcache_diffusers.recording.rows import fold_rows, split_rows


@dataclass
class Recording:
    """Full runs, sample by sample.

    Attributes:
        raw: raw[(step, branch)][n] is the denoiser's output for sample n, leaves of shape (C, ...).
        guided: guided[step][n] is v_step as the sampler saw it.
        states: states[step][n] is x_step; the last is the result.
        notes: messages of the run for the user.
        store: keeps the rows on the disk; None keeps them in memory, on the run's device.

    Outputs are in the run's quantity: velocity predictions are kept as epsilon. A row may be on the
    disk: :meth:`outputs`, :meth:`state` and :meth:`used` load it.
    """

    raw: dict[tuple[int, str], list[Any]] = field(default_factory=dict)
    guided: dict[int, list[Tensor]] = field(default_factory=dict)
    states: dict[int, list[Tensor]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    store: DiskStore | None = None

    def outputs(self, step: int, branch: str, samples: Sequence[int]) -> list[Any]:
        """Return the denoiser's outputs at a step for some samples, one tree each."""
        rows = self.raw[step, branch]
        return [loaded(rows[n]) for n in samples]

    def state(self, step: int, samples: Sequence[int]) -> Tensor:
        """Return x_step of some samples, shape (samples, ...)."""
        return torch.stack([loaded(self.states[step][n]) for n in samples])

    def used(self, step: int, samples: Sequence[int]) -> Tensor:
        """Return v_step of some samples, shape (samples, ...)."""
        return torch.stack([loaded(self.guided[step][n]) for n in samples])

    def put(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Return the rows as they are kept, on the disk if there is a store."""
        return rows if self.store is None else [self.store.put(row) for row in rows]


@dataclass(frozen=True, eq=False)
class RecordedSample:
    """One sample of a recording; ``Trajectory.for_evaluator`` of the probe."""

    recording: Recording
    index: int


def joined(
    samples: Sequence[RecordedSample], call_weights: NDArray[np.float64] | None
) -> Recording | None:
    """Return the recording of samples of several; None if their runs made other calls than each other.

    Args:
        samples: of each the recording it is in.
        call_weights: of the outputs of each step, shape (N, P), where a step has several.
    """
    first = samples[0].recording
    if any(one.recording.raw.keys() != first.raw.keys() for one in samples):
        return None

    def rows(name: str) -> dict[Any, list[Any]]:
        fields = [(getattr(one.recording, name), one.index) for one in samples]
        return {key: [kept[key][index] for kept, index in fields] for key in getattr(first, name)}

    notes = dict.fromkeys(note for one in samples for note in one.recording.notes)
    store = next((one.recording.store for one in samples if one.recording.store), None)
    found = Recording(rows("raw"), rows("guided"), rows("states"), list(notes), store)
    if call_weights is not None:
        for step, outputs in found.guided.items():
            parts = (list(loaded(each).unbind(0)) for each in outputs)
            found.guided[step] = list(found.put([combined(p, call_weights[step]) for p in parts]))
    return found


class RecordingHook(StepHook):
    """Computes every step and appends states and outputs to a :class:`Recording`.

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
        self.recording = recording
        self._num_samples, self._total = num_samples, max(total, num_samples)
        self._keep = keep

    def begin(self, run: RunInfo) -> None:
        """Start a run."""
        self._num_steps = run.num_steps

    def compute(self, call: DenoiserCall) -> Any:
        """Call the denoiser, and keep its output."""
        output = call.compute()
        self.keep(call, output)
        return output

    def keep(self, call: DenoiserCall, output: Any) -> None:
        """Keep the output of a call that somebody else made."""
        rows = self.recording.raw.setdefault((call.step, call.branch), [])
        rows.extend(self.recording.put(split_rows(call.to_run_quantity(output), self._num_samples)))

    def stepped(self, step: int, sample: Tensor, model_output: Tensor, next_sample: Tensor) -> None:
        """Keep the step's states and outputs."""
        record = self.recording
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
        """Close the run."""
        if completed:
            step, result = self._last
            self.recording.states[step].extend(self.recording.put(result.clone().unbind(0)))

    def report(self, message: str, severity: Severity) -> None:
        """Keep a note, once."""
        if severity is not Severity.NOTE:
            super().report(message, severity)
        elif message not in self.recording.notes:
            self.recording.notes.append(message)

    def _choose(self, keep: RecordingStorage, *seen: Tensor) -> None:
        """Keep the rows on the disk if the first step's, times all steps and samples, exceed memory."""
        record = self.recording
        step = sum(leaf.nbytes for leaf in (*seen, *tensors(record.raw)))
        size = self._num_steps * self._total * step // self._num_samples
        if size <= keep.memory_bytes:
            return
        folder = Path(keep.folder or tempfile.gettempdir())
        check_space(folder, size)
        notify(
            f"evaluating keeps {gigabytes(size)} of full runs (states and outputs, and those of every "
            f"branch) on the disk, in {folder}, instead of on the pipeline's device "
            "(RecordingStorage(memory_bytes=...))."
        )
        record.store = DiskStore(folder)
        record.raw = {key: list(record.put(rows)) for key, rows in record.raw.items()}


class DiskStore:
    """A temporary file of tensors, deleted when neither it nor any of its tensors is referenced.

    Args:
        folder: where the file is made.

    Raises:
        FileError: if no file can be made there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._end = folder, 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, prefix="otcache-", suffix=".rows")  # noqa: SIM115  # lives as long as this object
        except OSError as error:
            raise unwritable(folder, error) from error

    def put(self, tree: Any) -> Any:
        """Write the tensors of a tree; :func:`loaded` reads them back, bit for bit.

        Raises:
            FileError: if the disk is full.
        """
        leaves, form = flatten(tree)
        away = [self._put(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return unflatten(away, form)

    def fetch(self, at: int, into: Tensor) -> None:
        """Read the bytes from ``at`` on into a contiguous tensor on the host."""
        self._file.seek(at)
        self._file.readinto(_bytes(into))

    def _put(self, leaf: Tensor) -> StoredTensor:
        data = _bytes(leaf.detach().cpu().contiguous())
        try:
            self._file.seek(self._end)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise unwritable(self.folder, error) from error
        found = StoredTensor(self, self._end, leaf.shape, leaf.dtype, leaf.device)
        self._end += len(data)
        return found


@dataclass(frozen=True, eq=False)
class StoredTensor(Placeholder):
    """A tensor in a :class:`DiskStore`."""

    store: DiskStore
    at: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def load(self) -> Tensor:
        """Read a fresh copy, on the device that the tensor came from."""
        made = torch.empty(self.shape, dtype=self.dtype)
        self.store.fetch(self.at, made)
        return made.to(self.device)

    def columns(self, wanted: slice) -> Tensor:
        """Read some columns of a tensor of two dimensions, on the host, without reading the others."""
        rows, width = self.shape
        made = torch.empty(rows, wanted.stop - wanted.start, dtype=self.dtype)
        for n, row in enumerate(made):
            self.store.fetch(self.at + self.dtype.itemsize * (n * width + wanted.start), row)
        return made


def loaded(tree: Any) -> Any:
    """Return a tree with its stored tensors read; tensors in memory stay as they are."""
    leaves, form = flatten(tree)
    if not any(isinstance(leaf, StoredTensor) for leaf in leaves):
        return tree
    return unflatten(
        [leaf.load() if isinstance(leaf, StoredTensor) else leaf for leaf in leaves], form
    )


def _bytes(x: Tensor) -> memoryview:
    return x.reshape(-1).view(torch.uint8).numpy().data
