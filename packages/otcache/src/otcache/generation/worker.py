"""Samples made in a process of its own: ``python -m otcache.generation.worker``.

The first task says what is made and where; each further one which samples, in one pipeline call.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import msgspec

from otcache.generation.job import FILES, Job, Prompts, digest
from otcache.generation.manifest import Made
from otcache.generation.store import Store, StoreError
from otcache.media import Maker, encoded
from otcache.pipelines import FRAMES_PER_SECOND, open_pipeline
from otcache.processes import Channel
from otcache.running import load_policy
from otcache_core.errors import FileError, shortened
from otcache_core.plugins import Registry, RegistryDescription
from otcache_core.plugins.info import ANY, reason_of
from otcache_core.policy import Policy


class Workshop:
    """Makes the samples of a job in this process, and writes their files.

    Args:
        job: what is made.
        prompts: of the job.
        policy: of the job; None: without calibration.
        store: where files go.
        registry: where plugins come from.

    Raises:
        OtcacheError: if the pipeline cannot be opened.
    """

    def __init__(
        self, job: Job, prompts: Prompts, policy: Policy | None, store: Store, registry: Registry
    ) -> None:
        self._job, self._prompts, self._store, self._registry = job, prompts, store, registry
        opened = open_pipeline(job.pipeline, registry)
        self._rate = job.frames_per_second or opened.frames_per_second or FRAMES_PER_SECOND
        self._maker = Maker(
            opened.target,
            policy,
            job.budget,
            job.num_steps,
            call={**opened.call, **job.call},
            registry=registry,
            probe=job.probe or None,
            executor=job.executor or None,
        )

    def make(self, pairs: Sequence[tuple[int, int]]) -> list[Made]:
        """Make samples in one pipeline call, write their files, and return their lines.

        Args:
            pairs: index and seed of each.

        Raises:
            OtcacheError: if the pipeline does not take an argument, or a file cannot be written.
            Exception: whatever the pipeline raises.
        """
        samples = [self._prompts.sample(index) for index, _ in pairs]
        began = time.perf_counter()
        outputs, report = self._maker.make(samples, [seed for _, seed in pairs])
        seconds = (time.perf_counter() - began) / len(pairs)
        lines = []
        for (index, seed), output in zip(pairs, outputs, strict=True):
            suffix, data = encoded(output, self._rate, self._registry)
            name = f"{FILES}/{index:07}-{seed}{suffix}"
            self._store.write(name, data)
            lines.append(
                Made(
                    index,
                    seed,
                    digest(self._prompts.lines[index][1].encode()),
                    self._job.budget,
                    max(report.computed.values(), default=0),
                    name,
                    digest(data),
                    seconds,
                    dict(report.expected),
                )
            )
        return lines


class Opening(msgspec.Struct, frozen=True):
    """What a worker must know to begin.

    Args:
        job: what is made.
        prompts: path of the file of prompts.
        policy: path of the policy; empty: none.
        url: where files go.
        registry: from which the worker makes its own.
    """

    job: Job
    prompts: str
    policy: str
    url: str
    registry: RegistryDescription


def workshop(opening: Opening) -> Workshop:
    """Open the pipeline.

    Raises:
        FileError: if the prompts are not those of the job any more.
        OtcacheError: if the pipeline cannot be opened.
    """
    prompts = Prompts.of(Path(opening.prompts))
    if prompts.sha256 != opening.job.prompts:
        raise FileError(f"{opening.prompts}: has changed since this generation began.")
    policy = load_policy(opening.policy) if opening.policy else None
    registry = Registry.from_description(opening.registry)
    return Workshop(opening.job, prompts, policy, Store(opening.url), registry)


def main() -> None:
    """Open the pipeline, and make samples until this process is ended."""
    channel = Channel()
    try:
        shop = workshop(msgspec.convert(channel.tasks.get(), Opening))
    except ANY as error:
        traceback.print_exc()
        channel.say("failed", reason=shortened(reason_of(error)))
        sys.exit(1)
    channel.say("ready")
    while True:
        pairs = [(int(index), int(seed)) for index, seed in channel.tasks.get()["samples"]]
        try:
            lines = shop.make(pairs)
        except StoreError as error:
            channel.say("stopped", reason=shortened(str(error)))
        except ANY as error:
            traceback.print_exc()
            channel.say("failed", reason=shortened(reason_of(error)))
        else:
            channel.say("made", lines=msgspec.to_builtins(lines))


if __name__ == "__main__":
    main()
