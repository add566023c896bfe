"""The step hook of the probe: compute everything, and keep what the sampler saw."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.combination import CallRun
from otcache_core.errors import ExecutionError
from otcache_core.identification import ELEMENTS
from otcache_core.notices import notify
from otcache_core.storage.recordings import (
    RecordedSteps,
    RecordingStorage,
    StepsInMemory,
    StepsOnDisk,
    check_space,
    gigabytes,
    sketch,
    sketch_error,
)
from otcache_core.trajectory import Trajectory
from otcache_diffusers.hooks import DenoiserCall, RunInfo, Severity, StepHook, tensors
from otcache_diffusers.hooks.trees import examine
from otcache_diffusers.recording.full_runs import RecordedSample, Recording, RecordingHook
from otcache_diffusers.recording.rows import fold_rows, split_rows

FIRST_STATE = (
    "sample_fn must return the final state x_N, got the state it began with: return the last one of a list "
    "of all states."
)
EMPTY = (
    "the sampler's state has no elements: give a height and width of at least one latent pixel, and of a "
    "video one frame."
)
#: Samples whose outputs are replayed where states are large.
SAMPLES = 2


class Recorder(StepHook):
    """Keeps x_i and the outputs of one batched run on the host, in float32.

    Args:
        keep: memory or disk, whole or sketched; a notice reports the disk and the sketch at the first
            step, when the size is known.
        samples: of a loop's batch: if its steps have several outputs, those are kept as they are too,
            to be replayed; None keeps none.
        fold: samples of a pipeline's batch, whose sampler may have several rows of each in its state.
        beside: records the same run for the evaluator, too; None if nobody does.

    Attributes:
        raw: the outputs of each call as they are, of the first ``few`` samples; None if a step has one
            output.
        few: number of samples that suffice to identify how a step combines its outputs.
    """

    def __init__(
        self,
        keep: RecordingStorage | None = None,
        samples: int | None = None,
        fold: int | None = None,
        beside: RecordingHook | None = None,
    ) -> None:
        self.beside = beside
        self.run: RunInfo | None = None
        self.completed = 0
        self.calls: Counter[str] = Counter()
        self.warnings: list[str] = []
        self.raw = None if samples is None else Recording()
        self.few = 0
        self._keep, self._samples, self._fold = keep or RecordingStorage(), samples or 0, fold
        self._kept: KeptRun | None = None
        self._rounding = 0.0

    @property
    def began(self) -> bool:
        """Whether a step was recorded."""
        return self._kept is not None

    def begin(self, run: RunInfo) -> None:
        """Start a run."""
        self.run = run
        if self.beside:
            self.beside.begin(run)

    def compute(self, call: DenoiserCall) -> Any:
        """Call the denoiser, and keep its output."""
        output = call.compute()
        self._take(call.step, call.branch, call.to_run_quantity(output))
        if self.beside:
            self.beside.keep(call, output)
        return output

    def _take(self, step: int, branch: str, output: Any) -> None:
        self.calls[branch] += 1
        examine(output)
        if self.raw is None:
            return
        if not self.raw.raw:
            size = sum(leaf.numel() for leaf in tensors(output))
            self.few = self._samples if size <= ELEMENTS else min(SAMPLES, self._samples)
        self.raw.raw[step, branch] = split_rows(output, self._samples)[: self.few]

    def stepped(self, step: int, sample: Tensor, model_output: Tensor, next_sample: Tensor) -> None:
        """Keep the step's states and outputs."""
        assert self.run is not None
        if self.beside:
            self.beside.stepped(step, sample, model_output, next_sample)
        if self._fold is not None:
            sample, model_output, next_sample = fold_rows(
                self._fold, sample, model_output, next_sample
            )
        outputs = (
            list(model_output.unbind(1)) if model_output.ndim > sample.ndim else [model_output]
        )
        if sample.numel() == 0:
            raise ExecutionError(EMPTY)
        _check_shapes(step, sample, outputs[0], next_sample, step == self.run.num_steps - 1)
        self._rounding = max(_rounding(x.dtype) for x in (sample, *outputs, next_sample))
        state = _host(sample)
        if len(outputs) == 1:
            self.raw = None
        if self._kept is None:
            self._kept = KeptRun(self.run.num_steps, state.shape, len(outputs), self._keep)
        self._kept.add(step, state, [_host(output) for output in outputs])
        if step == 0:
            self._start = state.copy()
        if step == self.run.num_steps - 1:
            end = _host(next_sample)
            if np.array_equal(end, self._start):
                raise ExecutionError(FIRST_STATE)
            self._kept.add_end(step, end)

    def end(self, completed: bool) -> None:
        """Close the run."""
        if self.beside:
            self.beside.end(completed)
        whole = self.run is not None and self._kept is not None and self._kept.ended
        self.completed += completed and whole

    def report(self, message: str, severity: Severity) -> None:
        """Keep a warning: the probe raises it as an error."""
        if severity is Severity.WARNING:
            self.warnings.append(message)
        elif self.beside:
            self.beside.report(message, severity)
        else:
            super().report(message, severity)

    def runs(self, num_samples: int) -> list[CallRun]:
        """Return the states and outputs of every sample of the batch.

        Raises:
            ExecutionError: if the batch has another size, or the run did not come to its end.
        """
        found = self._whole().runs(self._rounding)
        if len(found) != num_samples:
            raise ExecutionError(
                f"the sampler's state must have one row per sample ({num_samples}), got "
                f"{len(found)}: return one row per sample, and give a pipeline one image per sample."
            )
        return found

    def trajectories(
        self,
        labels: Sequence[str],
        grid: NDArray[np.float64],
        call_weights: NDArray[np.float64] | None = None,
        unexplained: str = "",
    ) -> Iterator[Trajectory]:
        """Return one trajectory a sample.

        Args:
            labels: one per sample of the batch.
            grid: s_0 .. s_N.
            call_weights: gamma of the outputs of each step, shape (N, P); None if there is one.
            unexplained: why no call weights of the sampler were found.

        Raises:
            ExecutionError: as :meth:`runs`.
        """
        sketch_of, beside = self._whole().sketch_of, self.beside
        for n, (run, label) in enumerate(zip(self.runs(len(labels)), labels, strict=True)):
            kept = None if beside is None else RecordedSample(beside.recording, n)
            v = run.outputs[0] if call_weights is None else run.combined(call_weights)
            yield Trajectory(
                grid,
                run.states,
                v,
                dict(self.calls),
                label,
                self._rounding,
                sketch_of,
                call_weights,
                unexplained,
                kept,
            )

    def _whole(self) -> KeptRun:
        if self._kept is None:
            raise ExecutionError(
                "the denoiser must be called with the sampler's state and return an output of its shape, "
                "got no such call: let denoiser= be a function of the state that returns what the step "
                "uses, called as loop.denoiser(...)."
            )
        if not self._kept.ended:
            raise ExecutionError(
                "the loop must return its final state, got no tensor: let sample_fn return x_N, one row "
                "per sample."
            )
        return self._kept


def _check_shapes(step: int, state: Tensor, output: Tensor, following: Tensor, last: bool) -> None:
    if state.shape == output.shape == following.shape:
        return
    shapes = [tuple(x.shape) for x in (state, output, following)]
    what = f"step {step}: state, denoiser output and next state must have one shape, got {shapes}: "
    if last and state.shape == output.shape:
        raise ExecutionError(
            f"{what}sample_fn must return the sampler's final state and nothing else: not all states on "
            "the way, and nothing decoded."
        )
    raise ExecutionError(
        f"{what}the denoiser is not given the sampler's state, or the loop does not return it; use a "
        "diffusers pipeline, or a loop that calls the denoiser with x."
    )


def _rounding(dtype: torch.dtype) -> float:
    """Half a unit in the last place, relative; at least float32's, in which states are kept."""
    return max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) / 2


def _host(x: Tensor) -> Floats:
    """Return rows of float32 on the host; no copy of what is float32 on the host already."""
    return np.asarray(x.detach().reshape(len(x), -1).to("cpu", torch.float32))


Floats = NDArray[np.float32]


class KeptRun:
    """Takes x_i and v_i step by step, and returns them sample by sample.

    Args:
        num_steps: N.
        shape: (samples, elements) of a state.
        num_outputs: P, outputs per step.
        keep: memory or disk, whole or sketched. On the disk or sketched, values are checked to be finite
            here, since :class:`~otcache_core.trajectory.Trajectory` does not see all of them.

    Attributes:
        ended: whether x_N was recorded.
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
            notify(_sketched(elements, len(self._some)))
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
        """Append x_N; raises as :meth:`add`."""
        self._append(self._states, step, "next state", state)
        self.ended = True

    def runs(self, rounding: float) -> list[CallRun]:
        """Return every sample's states and outputs."""
        states, outputs = self._states.samples(), [steps.samples() for steps in self._outputs]
        return [CallRun(x, o, rounding) for x, *o in zip(states, *outputs, strict=True)]

    def _folder_for(self, keep: RecordingStorage, num_outputs: int) -> Path | None:
        """Return the folder of a run that goes to the disk; None if it stays in memory."""
        samples, elements = self._row
        size = 4 * ((1 + num_outputs) * self._num_steps + 1) * samples * elements
        if size <= keep.memory_bytes:
            return None
        folder = Path(keep.folder or tempfile.gettempdir())
        check_space(folder, size)
        notify(
            f"recording keeps {gigabytes(size)} of states and outputs on the disk, in {folder}, until "
            f"they are not needed any more (more than {gigabytes(keep.memory_bytes)} do not stay in "
            "memory: RecordingStorage(memory_bytes=...))."
        )
        return folder

    def _steps(self, num_rows: int) -> RecordedSteps:
        if self._folder is None:
            return StepsInMemory(num_rows, self._row)
        return StepsOnDisk(self._row, self._folder)

    def _append(self, steps: RecordedSteps, step: int, what: str, row: Floats) -> None:
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
