"""Full runs of a pipeline, as a calibration records them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any

from otcache.calibration import stages as stage
from otcache.calibration.bench import Job, Ledger
from otcache.progress import Stages
from otcache.targets import choose
from otcache_core import Trajectory
from otcache_core.contracts import FeatureProbe, SampleRequest
from otcache_core.notices import notify, once
from otcache_core.numbers import integer
from otcache_core.plugins import Registry, installed
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
