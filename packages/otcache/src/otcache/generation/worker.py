"""Samples made in a process of its own: ``python -m otcache.generation.worker``.

The first task says what is made and where; each further one which samples, in one pipeline call.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import msgspec

from otcache.generation.job import FILES, Job, Piece, digest
from otcache.generation.manifest import Made
from otcache.generation.store import Store, StoreError
from otcache.media import Maker, encoded
from otcache.pipelines import FRAMES_PER_SECOND, open_pipeline, sample_of
from otcache.processes import Channel
from otcache.running import load_policy
from otcache_core.errors import shortened
from otcache_core.plugins import Registry, RegistryDescription
from otcache_core.plugins.info import ANY, reason_of
from otcache_core.policy import Policy


class Workshop:
    """Makes the samples of a job in this process, and writes their files.

    Args:
        job: what is made.
        prompts: path of the file of prompts; only its ending and the folder of the images it names count.
        policy: of the job; None: without calibration.
        store: where files go.
        registry: where plugins come from.

    Raises:
        OtcacheError: if the pipeline cannot be opened.
    """

    def __init__(
        self, job: Job, prompts: Path, policy: Policy | None, store: Store, registry: Registry
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

    def make(self, pieces: Sequence[Piece]) -> list[Made]:
        """Make samples in one pipeline call, write their files, and return their lines.

        Raises:
            OtcacheError: if the pipeline does not take an argument, or a file cannot be written.
            Exception: whatever the pipeline raises.
        """
        samples = [sample_of(self._prompts, piece.line, piece.text) for piece in pieces]
        began = time.perf_counter()
        outputs, report = self._maker.make(samples, [piece.seed for piece in pieces])
        seconds = (time.perf_counter() - began) / len(pieces)
        lines = []
        for piece, output in zip(pieces, outputs, strict=True):
            suffix, data = encoded(output, self._rate, self._registry)
            name = f"{FILES}/{piece.sample:07}-{piece.seed}{suffix}"
            self._store.write(name, data)
            lines.append(
                Made(
                    piece.sample,
                    piece.seed,
                    digest(piece.text.encode()),
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
        prompts: path of the file of prompts, which a worker does not read.
        policy: the text of the policy's file; empty: none.
        url: where files go.
        registry: from which the worker makes its own.
    """

    job: Job
    prompts: str
    policy: str
    url: str
    registry: RegistryDescription

    def workshop(self) -> Workshop:
        """Open the pipeline.

        Raises:
            OtcacheError: if it cannot be opened.
        """
        registry = Registry.from_description(self.registry)
        store = Store(self.url)
        return Workshop(self.job, Path(self.prompts), _policy(self.policy), store, registry)


def _policy(text: str) -> Policy | None:
    if not text:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.otcache"
        path.write_text(text, encoding="utf-8")
        return load_policy(path)


def main() -> None:
    """Open the pipeline, and make samples until this process is ended."""
    channel = Channel()
    try:
        shop = msgspec.convert(channel.tasks.get(), Opening).workshop()
    except ANY as error:
        traceback.print_exc()
        channel.say("failed", reason=shortened(reason_of(error)))
        sys.exit(1)
    channel.say("ready")
    while True:
        pieces = msgspec.convert(channel.tasks.get()["samples"], list[Piece])
        try:
            lines = shop.make(pieces)
        except StoreError as error:
            channel.say("stopped", reason=shortened(str(error)))
        except ANY as error:
            traceback.print_exc()
            channel.say("failed", reason=shortened(reason_of(error)))
        else:
            channel.say("made", lines=msgspec.to_builtins(lines))


if __name__ == "__main__":
    main()
