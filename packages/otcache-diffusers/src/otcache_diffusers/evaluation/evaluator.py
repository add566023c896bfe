"""The evaluator of a live pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.contracts import (
    Drift,
    Evaluation,
    Evaluator,
    QualityMetric,
    SampleRequest,
    metric_values,
)
from otcache_core.errors import OtcacheError, expected
from otcache_core.loop import Loop
from otcache_core.notices import NOT_FITTED, not_fitted, notify
from otcache_core.plugins import Registry, installed
from otcache_core.recurrence import NotLinear, Recurrence
from otcache_core.schedule import Schedule
from otcache_core.storage.recordings import SLAB
from otcache_core.trajectory import Trajectory
from otcache_diffusers.evaluation.fit import ClosedLoopFit, Fit
from otcache_diffusers.evaluation.guidance import BranchGuidance, branch_guidance
from otcache_diffusers.evaluation.schedule_runs import ScheduleRuns, chunks
from otcache_diffusers.hooks import StepHook, guiders_of
from otcache_diffusers.recording.full_runs import (
    DiskStore,
    RecordedSample,
    Recording,
    RecordingHook,
    StoredTensor,
    joined,
)
from otcache_diffusers.recording.sampler import Sampler
from otcache_diffusers.recording.sampler_checks import ReplayCheck, confirmed_recurrence
from otcache_diffusers.requests import prepared

#: Advice if a loop is not linear in its denoiser's outputs.
INSIDE = (
    "If it clips predictions, or guides in a way that is not linear, let denoiser= be a function that "
    "does so inside, called as loop.denoiser(...)"
)
#: ``key`` of all notices that branches share their forecast weights, whatever the reason.
SHARED_WEIGHTS = "branches share forecast weights"
LATENT_OBJECTIVES = ("latent-rmse", "latent-l1")


class PipelineEvaluator(Evaluator):
    """Runs schedules on recorded samples of a pipeline, as cheaply as exactness allows.

    Steps before a schedule's first skip are replayed from the full run at no cost. Schedules of one
    evaluation that begin alike share the outputs of their common steps, and schedules that compute the
    same steps after that share one batched call. The first evaluation runs the samples in full once
    more, to keep the denoiser's outputs per branch, unless the probe kept them
    (``SampleRequest.for_evaluator``); that pass is not part of any ``Evaluation.nfe``, so
    that the same evaluation always has the same cost. A schedule that skips nothing is the full run and
    is not run again.

    The fit is one of all samples, in any number of batches: with more than one, each schedule is run
    span by span (:class:`~otcache_diffusers.evaluation.schedule_runs.PooledFit`), for more calls but no
    more evaluations. With two samples or more, every sample runs with the weights fitted on the others,
    so its error is out of sample, and comparing fitted schedules by it does not reward overfitting. The
    weights returned are those of all samples. If guidance is linear in its branches
    (:func:`~otcache_diffusers.evaluation.guidance.branch_guidance`), each gets its own; otherwise they
    share theirs, and a notice says why, once. The fit
    needs a deterministic linear sampler
    (:func:`~otcache_diffusers.recording.sampler_checks.confirmed_recurrence`); otherwise ``fit`` changes
    nothing, and a notice says why, once.

    Memory per sample on the pipeline's device: N outputs a branch, N guided outputs and N + 1 states, so
    (N (C + 2) + 1) latents with C branches; and for the schedules that run, the B outputs a branch of
    each, and on the host their deviations from the full run. Recorded runs and deviations go to the disk
    if the runs of all samples exceed ``request.keep.memory_bytes``, which a notice reports, and are read
    a step at a time.

    Args:
        target: a diffusers pipeline or a Loop.
        request: the samples; ``batch_size`` bounds the rows of one call and changes no result beyond
            rounding.
        trajectories: the same samples, recorded.
        fit: the rule of the closed-loop fit.
        metrics: perceptual objectives by name; ``lpips`` and ``rmse`` of decoded images by default, if
            the pipeline decodes images.
        registry: of forecasters and metrics; None: the installed plugins.

    Raises:
        OtcacheError: if request and trajectories disagree.
    """

    def __init__(
        self,
        target: Any,
        request: SampleRequest,
        trajectories: Sequence[Trajectory],
        *,
        fit: ClosedLoopFit | None = None,
        metrics: dict[str, QualityMetric] | None = None,
        registry: Registry | None = None,
    ) -> None:
        if len(request.prompts) != len(trajectories):
            raise OtcacheError(
                expected(
                    "trajectories", len(trajectories), f"{len(request.prompts)}, one per sample"
                )
            )
        self._request = request = prepared(target, request)
        self._target = target
        self._sampler = Sampler(target, request)
        self._trajectories, self._grid = trajectories, trajectories[0].grid
        self._registry = registry or installed()
        self._metrics = self._default_metrics() if metrics is None else metrics
        self._runs = ScheduleRuns(
            self._sampler, self._grid, trajectories[0].call_weights, self._registry
        )
        forecaster = self._registry.create("forecasters", "otcache-core/fitted")
        rule, euler = fit or ClosedLoopFit(), Recurrence.euler(self._grid)
        self._fit = Fit(rule, forecaster, euler, seeds=request.seeds)
        self._recurrence: Recurrence | NotLinear | None = None
        self._guidance = BranchGuidance()
        self._notified = False

    @property
    def grid(self) -> NDArray[np.float64]:
        """Return s_0 .. s_N of the recorded runs."""
        return self._grid

    @property
    def num_samples(self) -> int:
        """Return the number of samples."""
        return len(self._request.prompts)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Return the latent objectives and the metrics' names."""
        return (*LATENT_OBJECTIVES, *self._metrics)

    def evaluate(
        self,
        schedules: Sequence[Schedule],
        *,
        objective: str | None = None,
        samples: Sequence[int] | None = None,
        fit: bool = False,
    ) -> Evaluation:
        """Run schedules on the samples, and measure their errors against the full runs.

        By every metric that takes them, where samples are decoded.
        """
        objective = self._check_objective(objective)
        chosen = self._begin(samples)
        fitting = self._fitting() if fit else None
        decode = objective in self._metrics
        names = {objective, *(self._measurable if decode else LATENT_OBJECTIVES)}
        errors = {name: np.zeros((len(schedules), len(chosen))) for name in sorted(names)}
        away = self._runs.recording.store
        deviations = Deviations(len(schedules), DiskStore(away.folder) if away else None)
        results, ran = list(schedules), [[s] * len(chosen) for s in schedules]
        batches = list(chunks(chosen, self._request.batch_size))
        places = list(chunks(range(len(chosen)), self._request.batch_size))
        for b, run in self._runs.batched(tuple(schedules), batches, fitting, decode):
            error = (run.latents - self._runs.full(batches[b])).detach().cpu().flatten(1)
            deviations.add(run.index, error)
            for name, found in errors.items():
                found[run.index, list(places[b])] = self._score(name, error, run.images, batches[b])
            results[run.index] = run.schedule
            for place, schedule in zip(places[b], run.ran, strict=False):
                ran[run.index][place] = schedule
        return Evaluation(
            schedules=tuple(results),
            errors=errors.pop(objective),
            nfe=self._runs.nfe,
            grams=deviations.grams(),
            ran=tuple(map(tuple, ran)),
            others=errors,
        )

    @cached_property
    def _measurable(self) -> tuple[str, ...]:
        """The objectives that take the samples: some metrics refuse small images."""
        images = self._runs.images
        assert images is not None
        return (*LATENT_OBJECTIVES, *(n for n, m in self._metrics.items() if _takes(m, images[:1])))

    @property
    def largest_batch(self) -> int:
        """Return how many rows the largest call has."""
        n = min(self.num_samples, self._request.batch_size)
        return n * (self._request.batch_size // n)

    def replay(self, samples: Sequence[int]) -> NDArray[np.float64]:
        """Replay recorded outputs through the sampler; return each sample's relative deviation."""
        self._begin(None)
        hook = ReplayCheck(self._runs.recording, self._trajectories, samples)
        self._runs.replay(hook, samples)
        return hook.deviations

    def drift(
        self, schedules: Sequence[Schedule], *, samples: Sequence[int] | None = None
    ) -> Drift:
        """Run schedules, and measure their deviation from the full run at every step."""
        chosen = self._begin(samples)
        errors = np.zeros((len(schedules), len(chosen), len(self._grid)))
        for part in chunks(range(len(chosen)), self._request.batch_size):
            inside = [chosen[p] for p in part]
            for run in self._runs.runs(tuple(schedules), inside, None, watch=True):
                errors[run.index, list(part)] = run.drift
        return Drift(errors, self._runs.nfe)

    def _begin(self, samples: Sequence[int] | None) -> tuple[int, ...]:
        self._runs.nfe = 0
        self._record()
        return tuple(range(self.num_samples)) if samples is None else tuple(samples)

    def _default_metrics(self) -> dict[str, QualityMetric]:
        if not self._sampler.decodes:
            return {}
        names = ("lpips", "rmse")
        metrics = [self._registry.create("metrics", f"otcache-diffusers/{n}") for n in names]
        return {metric.name: metric for metric in metrics if isinstance(metric, QualityMetric)}

    def _check_objective(self, objective: str | None) -> str:
        name = objective or self.objectives[0]
        if name not in self.objectives:
            raise OtcacheError(expected("objective", name, f"one of {', '.join(self.objectives)}"))
        return name

    def _record(self) -> None:
        """Run the samples in full once, unless the probe kept what they returned; decode them if need be."""
        if self._runs.recording.states:
            return
        kept, outputs = [t.for_evaluator for t in self._trajectories], []
        whole = all(isinstance(one, RecordedSample) for one in kept)
        known = joined(kept, self._trajectories[0].call_weights) if whole else None
        recording, kind = known or Recording(), "np" if self._metrics else "latent"
        hook: StepHook
        for part in chunks(range(self.num_samples), self._request.batch_size):
            if known is None:
                hook = RecordingHook(recording, len(part), self.num_samples, self._request.keep)
            elif self._metrics:
                hook = ReplayCheck(known, self._trajectories, part)
            else:
                break
            outputs.append(self._runs.replay(hook, part, kind))
        for note in recording.notes:
            notify(note)
        self._runs.recording = recording
        self._guidance = branch_guidance(recording, self._trajectories[0].call_weights)
        self._fit.guidance_weights = self._guidance.weights
        self._runs.images = np.concatenate(outputs) if self._metrics else None

    @property
    def recurrence(self) -> Recurrence | NotLinear:
        """Return the sampler's recurrence, or why there is none."""
        if self._recurrence is None:
            self._record()
            self._recurrence = confirmed_recurrence(
                self._target, self._sampler, self._runs.recording, self._trajectories
            )
            if isinstance(self._recurrence, Recurrence):
                self._fit.recurrence = self._recurrence
            elif isinstance(self._target, Loop):
                self._recurrence = replace(
                    self._recurrence, reason=f"{self._recurrence.reason}. {INSIDE}"
                )
        return self._recurrence

    def _fitting(self) -> Fit | None:
        """Return how to fit; None if that is not possible, and notify why the first time."""
        recurrence, first, self._notified = self.recurrence, not self._notified, True
        if isinstance(recurrence, Recurrence):
            if first and self._guidance.shared:
                notify(_shared(self._target, self._guidance.shared), key=SHARED_WEIGHTS)
            return self._fit
        if first:
            notify(not_fitted(recurrence.reason), key=NOT_FITTED)
        return None

    def _score(
        self,
        objective: str,
        error: Tensor,
        images: NDArray[np.floating] | None,
        samples: Sequence[int],
    ) -> NDArray[np.float64]:
        if objective == "latent-rmse":
            return np.asarray(error.double().square().mean(1).sqrt())
        if objective == "latent-l1":
            return np.asarray(error.double().abs().mean(1))
        assert images is not None
        assert self._runs.images is not None
        return metric_values(self._metrics[objective], images, self._runs.images[list(samples)])


def _takes(metric: QualityMetric, images: NDArray[np.floating]) -> bool:
    try:
        metric_values(metric, images, images)
    except OtcacheError:
        return False
    return True


def _shared(target: Any, reason: str) -> str:
    """Return the message that branches share their forecast weights, and by which guider, if any."""
    kinds = dict.fromkeys(type(guider).__name__ for guider in guiders_of(target).values())
    by = f" of {', '.join(kinds)}" if kinds else ""
    return f"the branches{by} share their forecast weights: {reason}."


class Deviations:
    """Collects e_a = x_N(schedule a) - x_N(full) of several schedules, batch after batch of samples.

    Args:
        num_schedules: S.
        store: keeps them on the disk; None keeps them in memory.
    """

    def __init__(self, num_schedules: int, store: DiskStore | None = None) -> None:
        self._parts: list[list[Tensor | StoredTensor]] = [[] for _ in range(num_schedules)]
        self._store = store

    def add(self, index: int, error: Tensor) -> None:
        """Append those of one schedule on the next batch, shape (samples, d), on the host."""
        self._parts[index].append(self._store.put(error) if self._store else error)

    def grams(self) -> NDArray[np.float64]:
        """Return <e_a, e_b> of each sample, mean over elements; shape (samples, S, S).

        In float64, a slab of elements at a time.
        """
        batches = zip(*self._parts, strict=True)
        return np.concatenate([_gram(batch) for batch in batches])


def _gram(errors: Sequence[Tensor | StoredTensor]) -> NDArray[np.float64]:
    samples, elements = errors[0].shape
    total = torch.zeros(samples, len(errors), len(errors), dtype=torch.float64)
    for slab in _slabs(errors, elements, max(1, SLAB // samples)):
        total += slab @ slab.mT
    return np.asarray(total / elements)


def _slabs(errors: Sequence[Tensor | StoredTensor], elements: int, size: int) -> Iterator[Tensor]:
    """Yield the errors of some columns, shape (samples, S, size)."""
    for at in range(0, elements, size):
        columns = slice(at, min(at + size, elements))
        parts = [
            e.columns(columns) if isinstance(e, StoredTensor) else e[:, columns] for e in errors
        ]
        yield torch.stack([part.double() for part in parts], dim=1)
