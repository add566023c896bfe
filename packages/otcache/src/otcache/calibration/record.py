"""Full runs of a pipeline: recorded, and replayed through the sampler to see that they can be measured.

:func:`record_and_replay` is what a calibration begins with; it gives the runs and a :class:`StoredEvaluator`,
which measures schedules on them and keeps what it measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import cycle, islice, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otcache.calibration.store import Store
from otcache.progress import Stages
from otcache.running import choose
from otcache_core import OtcacheError, Schedule, Trajectory
from otcache_core.contracts import (
    Drift,
    Evaluation,
    Evaluator,
    FeatureProbe,
    ForwardingEvaluator,
    SampleRequest,
)
from otcache_core.errors import expected
from otcache_core.notices import notify, once
from otcache_core.numbers import integer
from otcache_core.plugins import Registry, installed
from otcache_core.recurrence import NotLinear
from otcache_core.samples import Sample, brief, content, digest, samples_of, seeds_of

#: Steps of a run, at most.
MOST_STEPS = 100_000
#: Deviation of a replayed result, relative to it, that is rounding: outputs are replayed as they were.
LIMIT = 1e-3
#: Facts in the folder of a calibration: that it runs one sample per call, and what replaying its runs found.
ONE_BY_ONE, REPLAYED = "one sample per call", "replayed"
ONE_SEED = (
    "all samples begin with the noise of one seed, so weights are fitted to it, and measured on no other: "
    "omit seeds=, or give several."
)
ALONE = (
    "a sample depends on what is beside it in the batch (replayed with others it is {deviation:.1e} off, "
    "relative to its state): its noise is drawn for the whole batch, or seeded by the first seed only, or "
    "the rows of a sample are together where it has several. Every sample is measured in a call of its "
    "own. Seed each sample's noise by its own seed to calibrate in batches, as docs/running.md shows."
)
UNSEEDED = (
    "a run of the same prompt and seed must come out the same, and replayed with the same denoiser outputs "
    "it is {deviation:.1e} off, relative to its state: the sampler draws noise that no seed fixes. Draw "
    "all noise from a torch.Generator that is seeded by the sample's own seed."
)
BEYOND = (
    "the sampler must use the denoiser's outputs and nothing else of it, and replayed with the same outputs "
    "it is {deviation:.1e} off, relative to its state, though the same seed comes out the same: it may "
    "differentiate through the denoiser (guidance by a gradient) or read what the denoiser keeps inside. "
    "Such a sampler cannot be measured; make denoiser= a callable that returns all that the step uses."
)
CHANGED = (
    "the sampler is not the one whose runs are kept in this folder: replayed, they end elsewhere. "
    "Choose another folder, or delete this one."
)


@dataclass
class NfeCount:
    """Denoiser evaluations spent, by stage."""

    stage: str = "record"
    nfe: dict[str, int] = field(default_factory=dict)

    def spend(self, nfe: int) -> None:
        """Add to the current stage."""
        self.nfe[self.stage] = self.nfe.get(self.stage, 0) + nfe


@dataclass(frozen=True, eq=False)
class RecordJob:
    """What is recorded, by what, and where it is kept.

    Args:
        probe: records.
        target: what it records.
        request: samples, as the probe takes them.
        store: remembers finished work; None keeps nothing.
        stages: shows progress.
        spent: counts evaluations.
        begun: called after the first run with N and the seconds it took a sample, None if it was kept;
            raises to stop.
        evaluated: keep what the evaluator needs, so that no sample need run twice.
        fresh: indices of the samples that were recorded now, not read from the store.
    """

    probe: FeatureProbe
    target: Any
    request: SampleRequest
    store: Store | None
    stages: Stages
    spent: NfeCount
    begun: Callable[[int, float | None], object]
    evaluated: bool = False
    fresh: list[int] = field(default_factory=list)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """By what each sample is known in the store: the digest of its prompt and its seed."""
        pairs = zip(self.request.prompts, self.request.seeds, strict=True)
        return tuple(digest([content(prompt), seed]) for prompt, seed in pairs)

    @property
    def scope(self) -> str:
        """By what evaluations of these samples are known."""
        return digest(self.keys)

    @property
    def replayed(self) -> str:
        """The fact of what replaying these samples found."""
        return f"{REPLAYED} {self.scope}"

    def label(self, index: int) -> str:
        """Return the name of a sample."""
        words = brief(self.request.prompts[index])
        label = f"sample {index}, seed {self.request.seeds[index]}"
        return f"{label}, {words}" if words else label


@dataclass(frozen=True, eq=False)
class RecordedRuns:
    """Recorded runs and what evaluates schedules on them.

    Attributes:
        trajectories: one per sample.
        evaluator: of these samples.
        sampler: the recurrence that weights are fitted through, in words; "" for Euler's rule.
        unfitted: why no weights can be fitted; "" if they can.
        output_weights: what each step's output moves the result by; None if that is not known.
        deviation: how far replayed runs are from the recorded ones at worst.
    """

    trajectories: Sequence[Trajectory]
    evaluator: StoredEvaluator
    sampler: str = ""
    unfitted: str = ""
    output_weights: NDArray[np.float64] | None = None
    deviation: float = 0.0


@once()
def record(
    target: Any,
    prompts: Iterable[Sample],
    num_inference_steps: int,
    seeds: Iterable[int] | None = None,
    *,
    registry: Registry | None = None,
    probe: str | None = None,
    progress: bool = True,
    batch_size: int = 8,
    **call: Any,
) -> list[Trajectory]:
    """Record a full run of every sample: states and outputs, as :func:`otcache.calibrate` records them.

    They are what a cost model measures (:class:`otcache_core.contracts.CostModel`). Nothing is replayed: a
    sampler whose samples depend on what is beside them in the batch is recorded as it runs, where a
    calibration would take ``batch_size=1``.

    Args:
        target: a diffusers pipeline or ``otcache.loop(...)``.
        prompts: at least one, each a text or a mapping of call arguments.
        num_inference_steps: steps, as the pipeline is called.
        seeds: every prompt is sampled with every seed; None gives each prompt a seed of its own, 0, 1, ...
        registry: where the probe comes from; None: the installed plugins.
        probe: name of a probe plugin, where not the first that supports the target.
        progress: show bars on standard error.
        batch_size: samples in one pipeline call, at most.
        call: further arguments of the pipeline call, the same for all samples.

    Returns:
        One trajectory a sample, prompt after prompt, all of one N and one grid. What exceeds 256 MiB
        is kept in temporary files (:class:`otcache.RecordingStorage`).

    Raises:
        OtcacheError: if an argument is of the wrong kind, no installed probe can record the target, or
            samples make another number of steps, or states of another size, than the first.

    Examples:
        >>> runs = otcache.record(pipe, ["a red circle"], 30)  # doctest: +SKIP
        >>> costs = MyCostModel().measure(runs).costs  # doctest: +SKIP
    """
    steps = integer("num_inference_steps", num_inference_steps, 1, MOST_STEPS)
    batch = integer("batch_size", batch_size, 1)
    chosen = choose(registry or installed(), "probes", target, probe)
    request = request_of(chosen, target, prompts, seeds, steps, call, batch)
    show, spent = Stages(progress), NfeCount()
    return record_samples(
        RecordJob(chosen, target, request, None, show, spent, lambda n, seconds: None)
    )


def request_of(
    probe: FeatureProbe,
    target: Any,
    prompts: Iterable[Sample],
    seeds: Iterable[int] | None,
    num_steps: int,
    call: dict[str, Any],
    batch_size: int,
    least: int = 1,
) -> SampleRequest:
    """Return what is measured: every sample with every seed, or each with one or more of its own.

    Without seeds the k-th one is k: first each sample has one, then each a second one, until there are
    ``least``.
    """
    samples = samples_of(prompts)
    request = SampleRequest(samples, tuple(range(len(samples))), num_steps, call, batch_size)
    request = probe.prepared(target, request)
    if seeds is not None:
        every, each_seed = zip(*product(request.prompts, seeds_of(seeds)), strict=True)
        request = replace(request, prompts=every, seeds=each_seed)
    else:
        rounds = -(-least // len(samples))
        every = request.prompts * rounds
        request = replace(request, prompts=every, seeds=tuple(range(len(every))))
    if len(request.seeds) > 1 and len(set(request.seeds)) == 1:
        notify(ONE_SEED)
    return request


def record_and_replay(job: RecordJob) -> RecordedRuns:
    """Record the samples, in batches if a sample is the same in any batch, else one per call.

    Raises:
        OtcacheError: if a run does not end in the same result twice.
    """
    job = replace(job, evaluated=True)
    store, alone = job.store, replace(job, request=replace(job.request, batch_size=1))
    if store and store.known(ONE_BY_ONE):
        job = alone
    runs = _replayed(job)
    if runs.deviation > LIMIT and job.request.batch_size > 1:
        notify(ALONE.format(deviation=runs.deviation))
        if store:
            store.restart(ONE_BY_ONE)
        job = alone
        runs = _replayed(job)
    if runs.deviation > LIMIT:
        same = _repeats(job, runs.trajectories[0])
        raise OtcacheError((BEYOND if same else UNSEEDED).format(deviation=runs.deviation))
    if store:
        output_weights = [] if runs.output_weights is None else runs.output_weights.tolist()
        facts = [runs.sampler, runs.unfitted, output_weights, job.spent.nfe["record"]]
        store.mark(job.replayed, json.dumps(facts))
    return runs


class _Replay(NamedTuple):
    """What is remembered of runs that replay: facts of them, and the evaluations that recording took."""

    sampler: str
    unfitted: str
    output_weights: list[float]
    spent: int


def _replayed(job: RecordJob) -> RecordedRuns:
    runs = record_samples(job)
    job.spent.stage = "record"
    known = job.store.recall(job.replayed, _Replay) if job.store else None

    def check(real: Evaluator) -> None:
        if known is not None and _deviation(real) > LIMIT:
            raise OtcacheError(CHANGED)

    build = partial(job.probe.evaluator, job.target, job.request, runs)
    evaluator = StoredEvaluator(build, job.store, job.spent.spend, check, job.scope)
    evaluator.complete = partial(_completed, job, runs)
    if known is not None:
        job.spent.spend(known.spent)
        output_weights = np.array(known.output_weights) if known.output_weights else None
        return RecordedRuns(runs, evaluator, known.sampler, known.unfitted, output_weights)
    # Of new samples that the probe kept nothing of, the evaluator makes one more run.
    again = sum(runs[i].for_evaluator is None for i in job.fresh)
    job.spent.spend((len(runs) + again) * runs[0].num_steps)
    with job.stages.stage("replaying full runs"):
        deviation = _deviation(evaluator.measuring)
        if deviation > LIMIT:
            return RecordedRuns(runs, evaluator, deviation=deviation)
        recurrence = evaluator.measuring.recurrence
    if isinstance(recurrence, NotLinear):
        return RecordedRuns(runs, evaluator, unfitted=recurrence.reason)
    sampler = "" if recurrence.grid is not None else str(recurrence)
    return RecordedRuns(runs, evaluator, sampler, "", recurrence.output_weights())


def _deviation(evaluator: Evaluator) -> float:
    """Replay a sample alone, and the first ones in other places, in the largest batch."""
    last = min(evaluator.num_samples, evaluator.largest_batch) - 1
    largest = list(islice(cycle(range(last, -1, -1)), evaluator.largest_batch))
    return max(float(evaluator.replay(rows).max()) for rows in ([last], largest))


def _repeats(job: RecordJob, recorded: Trajectory) -> bool:
    """Run the first sample once more, and return whether it comes out the same."""
    first = job.request
    one = replace(first, prompts=first.prompts[:1], seeds=first.seeds[:1], batch_size=1)
    return _same(next(iter(job.probe.record(job.target, one))), recorded)


def _same(again: Trajectory, recorded: Trajectory) -> bool:
    """Return whether two runs have the same states, up to rounding."""
    if again.states.shape != recorded.states.shape:
        return False
    apart = np.linalg.norm(again.states - recorded.states, axis=1)
    return bool((apart <= LIMIT * np.linalg.norm(recorded.states, axis=1)).all())


def record_samples(job: RecordJob) -> list[Trajectory]:
    """Record every sample, prompt after prompt; one that is in the store is not run again.

    Raises:
        OtcacheError: if samples make another number of steps, or states of another size, than the first.
    """
    store, total = job.store, len(job.keys)
    job.fresh.clear()
    found = {i: store.trajectory(key) if store else None for i, key in enumerate(job.keys)}
    recorded = {i: replace(run, label=job.label(i)) for i, run in found.items() if run}
    with job.stages.stage("recording full runs", total) as advance:
        advance(len(recorded), total)
        if recorded:
            first = next(iter(recorded.values()))
            job.begun(first.num_steps, None)
            _check_alike(first, list(recorded.values()))
        for part in _chunks([i for i in found if i not in recorded], job.request.batch_size):
            began = time.perf_counter()
            made: list[Trajectory] = list(_recorded(job, part))
            seconds = (time.perf_counter() - began) / len(part)
            if store:
                made = store.keep_batch([job.keys[i] for i in part], made)
            if not recorded:
                job.begun(made[0].num_steps, seconds)
            recorded |= zip(part, made, strict=True)
            job.fresh.extend(part)
            _check_alike(next(iter(recorded.values())), made)
            advance(len(recorded), total)
    return _on_one_grid([recorded[i] for i in range(total)])


def _chunks(samples: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Yield the samples of each pipeline call."""
    return (samples[at : at + size] for at in range(0, len(samples), size))


def _recorded(job: RecordJob, part: Sequence[int]) -> Iterator[Trajectory]:
    """Run some samples in one call."""
    request = job.request
    prompts = tuple(request.prompts[i] for i in part)
    seeds = tuple(request.seeds[i] for i in part)
    keep = request.keep.share(len(part), len(request.prompts))
    inside = replace(request, prompts=prompts, seeds=seeds, keep=keep, for_evaluator=job.evaluated)
    for index, trajectory in zip(part, job.probe.record(job.target, inside), strict=True):
        yield replace(trajectory, label=job.label(index))


def _completed(job: RecordJob, runs: Sequence[Trajectory], inner: Evaluator) -> Evaluator:
    """Return an evaluator that can measure; of runs that were read from the store, it needs more than that.

    These run once more, in the same calls as they were recorded in, so that it is the same to the last bit.
    Of a probe that keeps nothing for its evaluator, that runs all samples itself.

    Raises:
        OtcacheError: if a sample does not come out as it was recorded.
    """
    lacking = {
        key: run.for_evaluator
        for key, run in zip(job.keys, runs, strict=True)
        if not run.for_evaluator
    }
    if not lacking or not job.store:
        return inner
    batches = [job.store.batch_of(key) for key in lacking]
    place = {key: i for i, key in enumerate(job.keys)}
    for batch in dict.fromkeys(batches):
        part = [place[key] for key in dict.fromkeys(batch) if key in place]
        for i, again in zip(part, _recorded(job, part), strict=True):
            if not _same(again, runs[i]):
                raise OtcacheError(CHANGED)
            lacking[job.keys[i]] = again.for_evaluator
        if again.for_evaluator is None:
            break
    made = zip(job.keys, runs, strict=True)
    runs = [replace(run, for_evaluator=run.for_evaluator or lacking[key]) for key, run in made]
    return job.probe.evaluator(job.target, job.request, runs)


def _check_alike(first: Trajectory, others: Sequence[Trajectory]) -> None:
    """Check that all samples can be measured by one schedule and in one figure."""
    for run in others:
        for what, got, wanted in (
            ("steps", run.num_steps, first.num_steps),
            ("numbers in a state", run.states[0].size, first.states[0].size),
        ):
            if got != wanted:
                alike = f"{wanted}, as of {first.label}"
                advice = "give all samples one strength, height, width and size of image."
                raise OtcacheError(expected(f"{what} of {run.label}", got, alike, advice))


def _on_one_grid(runs: list[Trajectory]) -> list[Trajectory]:
    """Give all runs the grid of the first, from which those that were identified differ by rounding.

    Where they differ by more, no run's own grid is that of all: it is the share of steps to go.
    """
    grid = runs[0].grid
    span = float(np.ptp(grid))
    if any(np.abs(run.grid - grid).max() > 1e-2 * span for run in runs):
        grid = np.linspace(1.0, 0.0, len(grid))
    return [run if run.grid is grid else replace(run, grid=grid) for run in runs]


class StoredEvaluator(ForwardingEvaluator):
    """An evaluator that looks into the store first and builds the one inside only if it must.

    Args:
        build: makes the evaluator inside.
        store: None keeps nothing.
        spent: called with the NFE of every evaluation, remembered or not.
        check: called once with the evaluator inside before it measures anything new.
        scope: by what evaluations of these samples are known in the store.

    Attributes:
        complete: given the evaluator inside, returns one that can measure; it may be the same.
    """

    def __init__(
        self,
        build: Callable[[], Evaluator],
        store: Store | None,
        spent: Callable[[int], None],
        check: Callable[[Evaluator], None] = lambda inner: None,
        scope: str = "",
    ) -> None:
        self._build, self._store, self._spent, self._scope = build, store, spent, scope
        self.complete: Callable[[Evaluator], Evaluator] = lambda inner: inner
        self._check: Callable[[Evaluator], None] | None = check

    @cached_property
    def inner(self) -> Evaluator:  # type: ignore[override]  # made when first needed
        """The evaluator inside."""
        return self._build()

    @cached_property
    def measuring(self) -> Evaluator:
        """The evaluator inside, with all that it needs to measure."""
        self.inner = self.complete(self.inner)
        return self.inner

    def _checked(self) -> Evaluator:
        check, self._check = self._check, None
        if check:
            check(self.measuring)
        return self.measuring

    def evaluate(
        self,
        schedules: Sequence[Schedule],
        *,
        objective: str | None = None,
        samples: Sequence[int] | None = None,
        fit: bool = False,
    ) -> Evaluation:
        """Return what is stored, or evaluate and store it."""
        chosen = None if samples is None else list(samples)
        key = digest([self._scope, [s.to_dict() for s in schedules], objective, chosen, fit])
        evaluation = self._store.log.get(key) if self._store else None
        if evaluation is None:
            inner = self._checked()
            evaluation = inner.evaluate(schedules, objective=objective, samples=samples, fit=fit)
            if self._store:
                self._store.log.keep(key, evaluation)
        self._spent(evaluation.nfe)
        return evaluation

    def drift(
        self, schedules: Sequence[Schedule], *, samples: Sequence[int] | None = None
    ) -> Drift:
        """Measure anew: no stage of a calibration needs it, so nothing is stored."""
        drift = self._checked().drift(schedules, samples=samples)
        self._spent(drift.nfe)
        return drift
