"""Full runs of a pipeline: recorded, and replayed through the sampler to see that they can be measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otcache.calibration import stages as stage
from otcache.calibration.contest import Job, Ledger
from otcache.calibration.store import StoredEvaluator
from otcache.progress import Stages
from otcache.running import choose
from otcache_core import OtcacheError, Trajectory
from otcache_core.contracts import Evaluator, FeatureProbe, SampleRequest
from otcache_core.notices import notify, once
from otcache_core.numbers import integer
from otcache_core.plugins import Registry, installed
from otcache_core.recurrence import NotLinear
from otcache_core.samples import Sample, samples_of, seeds_of

#: Steps of a run that anybody measures, at most.
MOST_STEPS = 100_000
ONE_SEED = (
    "all samples begin with the noise of one seed, so weights are fitted to it, and measured on no other: "
    "leave seeds= out, or give several."
)


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
        num_inference_steps: steps asked for.
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
    asked = integer("num_inference_steps", num_inference_steps, 1, MOST_STEPS)
    batch = integer("batch_size", batch_size, 1)
    chosen = choose(registry or installed(), "probes", target, probe)
    request = request_of(chosen, target, prompts, seeds, asked, call, batch)
    job = Job(chosen, target, request, None, Stages(progress), Ledger(), _begun)
    return stage.record(job)


def request_of(
    probe: FeatureProbe,
    target: Any,
    prompts: Iterable[Sample],
    seeds: Iterable[int] | None,
    num_steps: int,
    call: dict[str, Any],
    batch_size: int,
) -> SampleRequest:
    """What is measured: every sample with every seed, or each with one of its own."""
    samples = samples_of(prompts)
    own = tuple(range(len(samples)))
    request = SampleRequest(samples, own, num_steps, call, batch_size)
    request = probe.prepared(target, request)
    if seeds is not None:
        pairs = [(s, seed) for s, seed in product(request.prompts, seeds_of(seeds))]
        found, numbers = zip(*pairs, strict=True)
        request = replace(request, prompts=found, seeds=numbers)
    if len(request.seeds) > 1 and len(set(request.seeds)) == 1:
        notify(ONE_SEED)
    return request


def _begun(num_steps: int) -> None:
    """Take any number of steps: no recipe depends on it."""


#: Deviation of a replayed result, relative to it, that is rounding: outputs are replayed as they were.
LIMIT = 1e-3
#: How the work of a calibration that goes one sample a call is marked.
ONE_BY_ONE = "one sample a call"
REPLAYED = "replayed"
ALONE = (
    "a sample depends on what is beside it in the batch (replayed with others it is {deviation:.1e} off, "
    "relative to its state): its noise is drawn for the whole batch, or seeded by the first seed only, or "
    "the rows of a sample stand together where it has several. Every sample is measured in a call of its "
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
    "the sampler is another than the one whose runs are kept in this folder: replayed, they go elsewhere. "
    "Choose another folder, or delete this one."
)


@dataclass(frozen=True)
class Reproduced:
    """Recorded runs and what evaluates schedules on them.

    Attributes:
        trajectories: one a sample.
        evaluator: of these samples.
        sampler: the recurrence that weights are fitted through, in words; "" for Euler's rule.
        unfitted: why no weights can be fitted; "" if they can.
        impulses: what each step's output moves the result by; empty if that is not known.
        deviation: how far replayed runs are from the recorded ones at worst.
    """

    trajectories: Sequence[Trajectory]
    evaluator: StoredEvaluator
    sampler: str = ""
    unfitted: str = ""
    impulses: Sequence[float] = ()
    deviation: float = 0.0

    @property
    def known_impulses(self) -> NDArray[np.float64] | None:
        """The impulses, None if they are not known."""
        return np.array(self.impulses) if len(self.impulses) else None


class _Replayed(NamedTuple):
    """What is remembered of runs that replay: facts of them, and the evaluations that recording took."""

    sampler: str
    unfitted: str
    impulses: list[float]
    spent: int


def reproduced(job: Job) -> Reproduced:
    """Record the samples, in batches if a sample is the same in any batch, else one a call.

    Raises:
        OtcacheError: if a run does not end in the same result twice.
    """
    store, alone = job.store, replace(job, request=replace(job.request, batch_size=1))
    if store and store.known(ONE_BY_ONE) is not None:
        job = alone
    made = _recorded(job)
    if made.deviation > LIMIT and job.request.batch_size > 1:
        notify(ALONE.format(deviation=made.deviation))
        if store:
            store.restart(ONE_BY_ONE)
        job = alone
        made = _recorded(job)
    if made.deviation > LIMIT:
        same = _repeats(job, made.trajectories[0])
        raise OtcacheError((BEYOND if same else UNSEEDED).format(deviation=made.deviation))
    if store:
        found = [made.sampler, made.unfitted, list(made.impulses), job.ledger.nfe["record"]]
        store.mark(REPLAYED, json.dumps(found))
    return made


def _recorded(job: Job) -> Reproduced:
    store, ledger = job.store, job.ledger
    trajectories = stage.record(job)
    ledger.stage = "record"
    done = store.recall(REPLAYED, _Replayed) if store else None

    def check(real: Evaluator) -> None:
        if done is not None and _deviation(real) > LIMIT:
            raise OtcacheError(CHANGED)

    def build() -> Evaluator:
        return job.probe.evaluator(job.target, job.request, trajectories)

    evaluator = StoredEvaluator(build, store, ledger.spend, check)
    if done is not None:
        ledger.spend(done.spent)
        return Reproduced(trajectories, evaluator, *done[:3])
    # Twice: the evaluator runs the samples in full once more, to keep every branch's own outputs.
    ledger.spend(2 * len(trajectories) * trajectories[0].num_steps)
    with job.stages.stage("replaying full runs"):
        deviation = _deviation(evaluator.real)
        if deviation > LIMIT:
            return Reproduced(trajectories, evaluator, deviation=deviation)
        known = evaluator.real.recurrence
    if isinstance(known, NotLinear):
        return Reproduced(trajectories, evaluator, unfitted=known.reason)
    sampler = "" if known.grid is not None else str(known)
    return Reproduced(trajectories, evaluator, sampler, "", known.impulses().tolist())


def _deviation(evaluator: Evaluator) -> float:
    """Replay a sample alone, and the first ones in other places, in the largest batch."""
    last = min(evaluator.num_samples, evaluator.largest_batch) - 1
    largest = list(islice(cycle(range(last, -1, -1)), evaluator.largest_batch))
    return max(float(evaluator.replay(rows).max()) for rows in ([last], largest))


def _repeats(job: Job, recorded: Trajectory) -> bool:
    """Run the first sample once more: does it come out the same?"""
    first = job.request
    one = replace(first, prompts=first.prompts[:1], seeds=first.seeds[:1], batch_size=1)
    again = next(iter(job.probe.record(job.target, one)))
    apart = np.linalg.norm(again.states - recorded.states, axis=1)
    return bool((apart <= LIMIT * np.linalg.norm(recorded.states, axis=1)).all())
