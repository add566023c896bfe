"""The states and outputs of one batched run, in memory, on the disk, or as a sketch of either."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otcache_core.combination import CallRun
from otcache_core.errors import ExecutionError
from otcache_core.notices import notify
from otcache_core.storage.recordings import (
    RecordingStorage,
    Steps,
    StepsInMemory,
    StepsOnDisk,
    check_space,
    gigabytes,
    sketch,
    sketch_error,
)

Floats = NDArray[np.float32]


class KeptRun:
    """Takes x_i and v_i step by step, and gives them back sample by sample.

    Args:
        num_steps: N.
        shape: (samples, elements) of a state.
        num_outputs: P, outputs a step.
        keep: where they go; what a :class:`~otcache_core.trajectory.Trajectory` will not see all of
            is checked to be finite on the way.

    Attributes:
        ended: whether x_N is there.
        sketch_of: elements of a state, if only some are kept; else 0.

    Raises:
        FileError: if the folder has no room for the run or may not be written.
    """

    def __init__(
        self, num_steps: int, shape: tuple[int, ...], num_outputs: int, keep: RecordingStorage
    ) -> None:
        self.ended = False
        self._num_steps, self._shape = num_steps, shape
        samples, elements = shape
        some = keep.coordinates is not None and keep.coordinates < elements
        self.sketch_of = elements if some else 0
        self._some = sketch(elements, keep.coordinates or 0, keep.seed) if some else None
        self._row = (samples, elements if self._some is None else len(self._some))
        if self._some is not None:
            _notice(_sketched(elements, len(self._some)))
        self._folder = self._folder_for(keep, num_outputs)
        self._states = self._steps(num_steps + 1)
        self._outputs = [self._steps(num_steps) for _ in range(num_outputs)]

    def add(self, step: int, state: Floats, outputs: Sequence[Floats]) -> None:
        """Append x_i and the outputs of the next step.

        Raises:
            ExecutionError: if the shape changes, or values are not finite.
            FileError: if they cannot be written.
        """
        if len(outputs) != len(self._outputs):
            raise ExecutionError(
                f"step {step}: every step must have as many denoiser outputs as the first "
                f"({len(self._outputs)}), got {len(outputs)}: keep guidance on for the whole run."
            )
        self._append(self._states, step, "state", state)
        for steps, output in zip(self._outputs, outputs, strict=True):
            self._append(steps, step, "output", output)

    def add_end(self, step: int, state: Floats) -> None:
        """x_N, after the last step; raises as :meth:`add`."""
        self._append(self._states, step, "next state", state)
        self.ended = True

    def runs(self, rounding: float) -> list[CallRun]:
        """Return every sample's states and outputs."""
        states, outputs = self._states.samples(), [steps.samples() for steps in self._outputs]
        return [CallRun(x, o, rounding) for x, *o in zip(states, *outputs, strict=True)]

    def _folder_for(self, keep: RecordingStorage, num_outputs: int) -> Path | None:
        """Return where the run goes to the disk; None if it stays in memory."""
        samples, elements = self._row
        size = 4 * ((1 + num_outputs) * self._num_steps + 1) * samples * elements
        if size <= keep.memory_bytes:
            return None
        folder = Path(keep.folder or tempfile.gettempdir())
        check_space(folder, size)
        _notice(
            f"recording keeps {gigabytes(size)} of states and outputs on the disk, in {folder}, until "
            f"they are not needed any more (more than {gigabytes(keep.memory_bytes)} do not stay in "
            "memory: RecordingStorage(memory_bytes=...))."
        )
        return folder

    def _steps(self, num_rows: int) -> Steps:
        if self._folder is None:
            return StepsInMemory(num_rows, self._row)
        return StepsOnDisk(self._row, self._folder)

    def _append(self, steps: Steps, step: int, what: str, row: Floats) -> None:
        if row.shape != self._shape:
            raise ExecutionError(
                f"step {step}: the sampler's {what} must keep its shape {self._shape}, got {row.shape}: "
                "samplers that change resolution on the way cannot be recorded."
            )
        unseen = self._folder is not None or self._some is not None
        if unseen and not np.isfinite(row).all():
            raise ExecutionError(
                f"step {step}: the sampler's {what} holds NaN or infinity: the full run itself broke; "
                "try float32 or bfloat16."
            )
        steps.append(row if self._some is None else row[:, self._some])


def _sketched(elements: int, coordinates: int) -> str:
    error = sketch_error(elements, coordinates)
    return (
        f"recording keeps a sketch, {coordinates:,} of {elements:,} coordinates of every state and "
        f"output: inner products carry a relative standard error of {error:.2%} (for Gaussian "
        "elements; otcache_core.storage.recordings)."
    )


def _notice(text: str) -> None:
    notify(text)
