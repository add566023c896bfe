"""The probe for every torch denoiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.contracts import Evaluator, FeatureProbe, Measured, SampleRequest
from otcache_core.errors import ExecutionError, OtcacheError, expected
from otcache_core.loop import Loop
from otcache_core.recurrence import NotLinear
from otcache_core.samples import arguments_of, is_image
from otcache_core.storage.recordings import SLAB, slabs
from otcache_core.trajectory import Trajectory
from otcache_diffusers.compat import load
from otcache_diffusers.hooks import LoopStates, drive, unsupported
from otcache_diffusers.recording.facts import fingerprint_of, provenance_of
from otcache_diffusers.recording.full_runs import Recording, RecordingHook
from otcache_diffusers.recording.recorder import Recorder
from otcache_diffusers.recording.sampler import Sampler, quiet
from otcache_diffusers.recording.sampler_checks import confirmed_combination
from otcache_diffusers.requests import EACH_ITS_OWN, prepared


class TorchProbe(FeatureProbe):
    """Records full runs at ``scheduler.step`` of a pipeline, or at the denoiser of a loop."""

    def supports(self, target: Any) -> str:
        """Return why a target cannot be recorded, or ""."""
        if isinstance(target, torch.nn.Module):
            return "a bare module has no sampler to call: wrap it in otcache.loop(...)"
        return unsupported(target)

    def provenance(self, target: Any, request: SampleRequest | None) -> dict[str, Any]:
        """Return what binds a policy to the target."""
        if request is None:
            return provenance_of(target, None, None)
        own = arguments_of(request.prompts[0]) if request.prompts else {}
        return provenance_of(target, request.num_steps, {**request.call, **own})

    def fingerprint(self, target: Any) -> str:
        """Return a hash of the weights of the target's denoisers."""
        return fingerprint_of(target)

    def prepared(self, target: Any, request: SampleRequest) -> SampleRequest:
        """Check a request; a pipeline's samples share a call if they are texts or class labels."""
        _check(request)
        return prepared(target, request)

    def record(self, target: Any, request: SampleRequest) -> Iterator[Trajectory]:
        """Run the samples in full, batch after batch, and yield one trajectory each."""
        request = self.prepared(target, request)
        known: _StepUse | None = None
        for part in _batches(request):
            recorder = self._run(target, request, part)
            assert recorder.run is not None
            known = known or _step_use(target, request, part, recorder)
            labels = [f"prompt {n}, seed {request.seeds[n]}" for n in part]
            yield from recorder.trajectories(
                labels, known.grid, known.call_weights, known.unexplained
            )

    def sample(self, target: Any, request: SampleRequest) -> NDArray[np.floating]:
        """Sample a request; return images, or final states of a target that decodes none."""
        request = self.prepared(target, request)
        sampler = Sampler(target, request)
        kind = "np" if sampler.decodes else "latent"
        with quiet(target):
            made = [sampler(part, output_type=kind) for part in _batches(request)]
        return np.concatenate([np.asarray(_host(batch)) for batch in made])

    def measure(self, target: Any, request: SampleRequest, *, flops: bool = False) -> Measured:
        """Sample and count; ``flops`` and ``peak_bytes`` come together and do not include decoding."""
        from otcache_diffusers.recording.metering import measure

        return measure(self, target, request, flops)

    def open(self, name: str) -> Any | None:
        """Load a folder that ``save_pretrained`` wrote."""
        if not (Path(name) / "model_index.json").is_file():
            return None
        kind = load("diffusers:DiffusionPipeline", f"the pipeline in {name}")
        try:
            return kind.from_pretrained(name, local_files_only=True)
        except Exception as error:  # a broken folder makes diffusers raise anything
            raise OtcacheError(
                f"{name}: no pipeline can be loaded from this folder: {error}"
            ) from error

    def evaluator(
        self, target: Any, request: SampleRequest, trajectories: Sequence[Trajectory]
    ) -> Evaluator:
        """Return the evaluator of a target on recorded samples."""
        from otcache_diffusers.evaluation.evaluator import PipelineEvaluator

        return PipelineEvaluator(target, request, trajectories, registry=self.registry)

    def _run(self, target: Any, request: SampleRequest, part: Sequence[int]) -> Recorder:
        n, loop = len(part), isinstance(target, Loop)
        keep = request.keep.share(n, len(request.prompts))
        beside = RecordingHook(Recording(), n, keep=keep) if request.for_evaluator else None
        recorder = Recorder(keep, n, None, beside) if loop else Recorder(keep, None, n, beside)
        states = LoopStates(n, None) if loop else None
        # A pipeline's scheduler reports its steps; a loop may not.
        steps = target.steps_made(request.num_steps) if isinstance(target, Loop) else None
        with quiet(target), drive(target, recorder, num_steps=steps, states=states):
            _sample(target, request, part, recorder)
        if recorder.run is None:
            raise ExecutionError(
                f"the sampler of {type(target).__name__} never called the denoiser, so nothing can be "
                "recorded: wrap a function that samples, and the module that it calls, in otcache.loop(...)."
            )
        made = recorder.run.num_steps
        wanted = made if steps is None else steps
        if loop and made == wanted and not recorder.warnings:
            recorder.runs(n)  # its error says what the loop returned instead of its final state
        if made != wanted or recorder.completed != 1:
            got = f"{made}, {'' if recorder.completed else 'not '}completed"
            why = "; ".join(recorder.warnings) or "a run that is measured must come to its end."
            raise ExecutionError(expected("steps of the sampler", got, str(wanted), why))
        if recorder.warnings:
            raise ExecutionError(f"the run cannot be recorded: {'; '.join(recorder.warnings)}")
        return recorder


@dataclass(frozen=True, eq=False)
class _StepUse:
    """How a target's steps use its denoiser: the grid, and the weights of a step's outputs."""

    grid: NDArray[np.float64]
    call_weights: NDArray[np.float64] | None = None
    unexplained: str = ""


def _step_use(
    target: Any, request: SampleRequest, part: Sequence[int], recorder: Recorder
) -> _StepUse:
    """Identify grid and call weights from the first batch, and replays of its outputs."""
    assert recorder.run is not None
    given, runs = recorder.run.grid, recorder.runs(len(part))
    known, states = bool(np.isfinite(given).all()), [run.states for run in runs]
    if recorder.raw is None:
        grid = given if known else identified_grid(states, [run.outputs[0] for run in runs])
        return _StepUse(grid)
    sampler, few = Sampler(target, request), part[: recorder.few]
    grid = given if known else np.linspace(1.0, 0.0, len(given))
    with quiet(target):
        call_weights = confirmed_combination(target, sampler, recorder.raw, few, runs)
    if isinstance(call_weights, NotLinear):
        even = np.full((len(given) - 1, len(runs[0].outputs)), 1 / len(runs[0].outputs))
        return _StepUse(grid, even, call_weights.reason)
    if not known:
        grid = identified_grid(states, [run.combined(call_weights) for run in runs])
    return _StepUse(grid, call_weights)


def _check(request: SampleRequest) -> None:
    if not request.prompts:
        raise OtcacheError(expected("prompts", request.prompts, "at least one"))
    if len(request.seeds) != len(request.prompts):
        wanted = f"one per prompt ({len(request.prompts)})"
        raise OtcacheError(expected("seeds", request.seeds, wanted))


def _sample(target: Any, request: SampleRequest, part: Sequence[int], recorder: Recorder) -> None:
    """Run a batch; what a pipeline raises before its first step is an error of its arguments."""
    try:
        Sampler(target, request)(part)
    except (OtcacheError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a pipeline raises anything for arguments that it does not take
        if isinstance(target, Loop) or recorder.began:
            raise
        kind = type(target).__name__
        text = f"{kind} does not take these arguments: {error}{_shared_images(request)}"
        raise ExecutionError(text) from error


def _shared_images(request: SampleRequest) -> str:
    """Return what happens to a list of images, which may have been meant as one per prompt."""
    for name, value in request.call.items():
        if isinstance(value, (list, tuple)) and len(value) > 1 and all(map(is_image, value)):
            return f". All {len(value)} of {name} go to every sample: {EACH_ITS_OWN.format(name=name)}."
    return ""


def _batches(request: SampleRequest) -> Iterator[range]:
    n, size = len(request.prompts), max(1, request.batch_size)
    return (range(start, min(start + size, n)) for start in range(0, n, size))


def _host(batch: Any) -> Any:
    return batch.detach().float().cpu().numpy() if isinstance(batch, Tensor) else batch


Array = NDArray[np.float64]
#: Largest relative residual of an Euler sampler; rounding in float32 leaves about 1e-6.
MAX_RESIDUAL = 1e-3
_TINY = float(np.finfo(float).tiny)


def identified_grid(
    states: Sequence[NDArray[np.floating]], outputs: Sequence[NDArray[np.floating]]
) -> Array:
    r"""Return s_i from the states alone, by least squares over the batch.

    .. math:: x_{i+1} - x_i = h_i v_i, \qquad s_i = -\sum_{j \ge i} h_j, \qquad s_N = 0

    If the steps do not have this form (a relative residual above 1e-3), as with denoisers that return
    x_0, epsilon or a score, return the share of steps to go, 1 - i/N: any falling grid does, since the
    recurrence of such a sampler is found without it.

    Args:
        states: x_0 .. x_N of each sample, shape (N + 1, d).
        outputs: v_0 .. v_{N-1} of each sample, shape (N, d).
    """
    along, size = np.zeros((2, len(outputs[0])))
    for dx, v in _steps(states, outputs):
        along += (dx * v).sum((1, 2))
        size += (v * v).sum((1, 2))
    h = along / np.maximum(size, _TINY)
    left = moved = 0.0
    for dx, v in _steps(states, outputs):
        left += float(np.square(dx - h[:, None, None] * v).sum())
        moved += float(np.square(dx).sum())
    residual = float(np.sqrt(left) / max(np.sqrt(moved), _TINY))
    if not residual <= MAX_RESIDUAL or not (np.all(h > 0) or np.all(h < 0)):
        return np.linspace(1.0, 0.0, len(h) + 1)
    return np.append(-np.cumsum(h[::-1])[::-1], 0.0)


def _steps(
    states: Sequence[NDArray[np.floating]], outputs: Sequence[NDArray[np.floating]]
) -> Iterator[tuple[Array, Array]]:
    """Yield x_{i+1} - x_i and v_i in float64, a slab of elements at a time, shape (N, samples, size)."""
    for x, v in zip(_together(states), _together(outputs), strict=True):
        yield np.diff(x, axis=0), v


def _together(arrays: Sequence[NDArray[np.floating]]) -> Iterator[Array]:
    size = max(1, SLAB // len(arrays))
    for parts in zip(*(slabs(array, size) for array in arrays), strict=True):
        yield np.stack(parts, axis=1, dtype=np.float64)
