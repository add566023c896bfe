"""The pipeline of a process, and how samples of it are run, counted and timed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from otcache.comparison.folder import Floats, Run
from otcache.comparison.job import Job
from otcache.comparison.timing import Key, Pair, take_turns
from otcache.pipelines import open_pipeline
from otcache.report.results import Label
from otcache.running import choose
from otcache_core.contracts import BaselineSetting, FeatureProbe, Measured, SampleRequest
from otcache_core.errors import OtcacheError
from otcache_core.plugins import Registry

#: Steps of the plain run that warms up a full one.
WARM = 2
Context = Callable[[], AbstractContextManager[None]]


class Finished(NamedTuple):
    """A run of all samples, their images or videos, and the sampler's last states if they are known."""

    run: Run
    images: Floats
    states: Floats | None


@dataclass(frozen=True)
class Bench:
    """The pipeline of this process, and how samples of it are measured.

    Args:
        job: what is compared.
        target: the pipeline.
        call: arguments of its calls.
        probe: measures it.
        say: called with the name of an event and its facts, as
            :meth:`otcache.processes.Channel.say` is.
    """

    job: Job
    target: Any
    call: dict[str, Any]
    probe: FeatureProbe
    say: Callable[..., None]

    @classmethod
    def open(cls, job: Job, say: Callable[..., None], registry: Registry) -> Bench:
        """Open the job's pipeline."""
        opened = open_pipeline(job.pipeline, registry)
        probe = choose(registry, "probes", opened.target, job.probe or None)
        return cls(job, opened.target, {**opened.call, **job.call}, probe, say)

    def request(self, samples: Sequence[Label], num_steps: int, batch: int = 1) -> SampleRequest:
        """Return the request of some samples; what its caller changes in it is not kept."""
        prompts = tuple(prompt for prompt, _, _ in samples)
        seeds = tuple(seed for _, seed, _ in samples)
        return SampleRequest(prompts, seeds, num_steps, dict(self.call), batch)

    @property
    def calibration(self) -> SampleRequest:
        """What methods are calibrated on."""
        samples = [(prompt, 0, "") for prompt in self.job.calibration]
        return self.request(samples, self.job.num_steps, self.job.batch_size)

    def one(self, sample: Label, num_steps: int, *, flops: bool = False) -> Measured:
        """Run one sample in one pipeline call."""
        measured = self.probe.measure(self.target, self.request([sample], num_steps), flops=flops)
        self.say("step")
        return measured

    @cached_property
    def flops_of_step(self) -> tuple[float, float]:
        """Multiply-adds of a plain step, and of what a run does besides its steps."""
        sample = self.job.samples[0]
        two, three = (self.one(sample, n, flops=True).flops or 0 for n in (2, 3))
        if two == three:
            probe = type(self.probe).__name__
            raise OtcacheError(
                f"evaluations are counted by multiply-adds, and {probe}.measure(..., flops=True) finds none."
            )
        return float(three - two), float(two - 2 * (three - two))

    def evaluations(self, samples: Sequence[Label], num_steps: int) -> tuple[float, float, int]:
        """Count evaluations and multiply-adds of a sample, and peak bytes, as the target is now."""
        measured = [self.one(sample, num_steps, flops=True) for sample in samples]
        flops = statistics.fmean(one.flops or 0 for one in measured)
        step, rest = self.flops_of_step
        return (flops - rest) / step, flops, max(one.peak_bytes or 0 for one in measured)

    def run(self, setting: BaselineSetting, context: Context, counted: int) -> Finished:
        """Run all samples, one per pipeline call, and count what some of them cost."""
        samples, steps = self.job.samples, setting.num_steps
        _ = self.flops_of_step  # counted before the context changes the target
        with context():
            measured = [self.one(sample, steps) for sample in samples]
            nfe, flops, peak = self.evaluations(samples[:counted], steps)
        return _finished(setting, measured, round(nfe, 6), flops, peak)

    def run_batches(self, setting: BaselineSetting, context: Context) -> Finished:
        """Run all samples in batches of the job's size; nothing is counted: B computed steps are B NFE."""
        samples, steps, size = self.job.samples, setting.num_steps, self.job.batch_size
        measured = []
        for start in range(0, len(samples), size):
            self.say("begin", what=setting.label)
            request = self.request(samples[start : start + size], steps, size)
            with context():
                measured.append(self.probe.measure(self.target, request))
            self.say("end")
        nfe = float(steps if setting.computed is None else len(setting.computed))
        return _finished(setting, measured, nfe, None, None)

    def pairs(
        self, runs: Mapping[Key, tuple[Run, Context]], samples: Sequence[Label]
    ) -> dict[Key, tuple[Pair, ...]]:
        """Time runs in turns with full runs; of two runs in a row the first warms up."""

        def full(number: int) -> float:
            sample = samples[number % len(samples)]
            self.one(sample, WARM)
            return self.one(sample, self.job.num_steps).seconds

        def timed(run: Run, context: Context) -> Callable[[int], float]:
            def own(number: int) -> float:
                sample = samples[number % len(samples)]
                with context():
                    self.one(sample, run.num_steps)
                    return self.one(sample, run.num_steps).seconds

            return own

        ideals = {key: self.job.num_steps / run.nfe for key, (run, _) in runs.items()}
        return take_turns(full, {key: timed(*run) for key, run in runs.items()}, ideals)


def _finished(
    setting: BaselineSetting,
    measured: Sequence[Measured],
    nfe: float,
    flops: float | None,
    peak: int | None,
) -> Finished:
    run = Run(setting.label, setting.num_steps, setting.computed, nfe, flops, peak)
    states = [one.states for one in measured if one.states is not None]
    images = np.concatenate([one.images for one in measured])
    return Finished(run, images, np.concatenate(states) if len(states) == len(measured) else None)
