"""Serve by threads and by processes; a pipeline makes one run at a time, so each has several."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import otcache
from composing import logs
from composing.sampler import STEPS, make_loop
from otcache_core import Registry
from otcache_core.plugins import RegistryDescription

#: (seed, budget) of each request.
REQUESTS = [(seed, 4 + seed % 3) for seed in range(6)]


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        state: x_N.
        computed: steps that were.
    """

    state: tuple[float, ...]
    computed: int


class Pipeline:
    """A pipeline and the handle of the policy on it.

    Args:
        policy: stays on it.
        registry: where plugins come from.
    """

    def __init__(self, policy: otcache.Policy, registry: Registry) -> None:
        self._loop = make_loop()
        self._handle: otcache.Enabled = otcache.enable(self._loop, policy, registry=registry)

    def sample(self, seed: int, budget: int) -> Answer:
        """Make one sample; requests of other threads to the same pipeline wait."""
        with self._handle.request(budget) as run:
            state = self._loop(["any"], [seed], STEPS)
        return Answer(tuple(state[0].tolist()), run.report.computed["call"])

    def close(self) -> None:
        """Leave nothing on the pipeline."""
        self._handle.remove()


def by_threads(policy: otcache.Policy, registry: Registry, pipelines: int = 2) -> list[Answer]:
    """Serve all requests by as many threads as pipelines; the registry is everybody's."""
    made = [Pipeline(policy, registry) for _ in range(pipelines)]
    with ThreadPoolExecutor(pipelines) as pool:
        jobs = [
            pool.submit(made[n % pipelines].sample, *request) for n, request in enumerate(REQUESTS)
        ]
    for pipeline in made:
        pipeline.close()
    return [job.result() for job in jobs]


# -- processes: a policy travels as it is, a registry by its description, and nothing else -----------------


@dataclass
class _Worker:
    """What one process holds."""

    pipelines: list[Pipeline] = field(default_factory=list)


_WORKER = _Worker()


def open_pipeline(policy: otcache.Policy, plugins: RegistryDescription) -> None:
    """Make this process's own pipeline; called once in each."""
    logs.begin()
    _WORKER.pipelines.append(Pipeline(policy, Registry.from_description(plugins)))


def sample(request: tuple[int, int]) -> Answer:
    """Make one sample in this process."""
    return _WORKER.pipelines[0].sample(*request)


def by_processes(policy: otcache.Policy, registry: Registry, workers: int = 2) -> list[Answer]:
    """Serve all requests by processes that are spawned, as CUDA needs it."""
    context = multiprocessing.get_context("spawn")
    begin = partial(open_pipeline, policy, registry.description())
    pool: Executor
    with ProcessPoolExecutor(workers, context, begin) as pool:
        return list(pool.map(sample, REQUESTS))


def main(policy: otcache.Policy, registry: Registry) -> None:
    """Serve the same requests both ways."""
    threads, processes = by_threads(policy, registry), by_processes(policy, registry)
    computed = [answer.computed for answer in threads]
    print(f"steps computed {computed}, as asked: {computed == [b for _, b in REQUESTS]}")
    print(f"processes give what threads give: {processes == threads}")
