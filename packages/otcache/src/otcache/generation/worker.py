"""Samples made in a process of its own: ``python -m otcache.generation.worker``.

The first task says what is made and where; each further one which samples, in one pipeline call.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from otcache.generation.job import FILES, Job, Piece, digest
from otcache.generation.manifest import Made
from otcache.generation.store import Store, StoreError
from otcache.media import Maker, encoded, usual_steps
from otcache.pipelines import FRAMES_PER_SECOND, open_pipeline, sample_of
from otcache.processes import Channel
from otcache.running import load_policy, schedule_of
from otcache_core.errors import OtcacheError, expected, shortened
from otcache_core.notices import heard
from otcache_core.plugins import Registry, RegistryDescription
from otcache_core.plugins.info import ANY, reason_of
from otcache_core.policy import Policy
from otcache_core.samples import Sample


@dataclass(frozen=True)
class File:
    """A sample as the bytes of its file.

    Args:
        suffix: ending of its name: ``.png``, or what a writer of videos takes.
        data: all bytes.
        executed: steps that were computed, of the branch that computed most.
        seconds: of the pipeline call, over the samples in it.
        expected: errors that the policy expects at this budget, by metric.
        notices: what was said in this call.
    """

    suffix: str
    data: bytes
    executed: int
    seconds: float
    expected: dict[str, float]
    notices: tuple[str, ...] = ()


class Workshop:
    """Makes the samples of a job in this process.

    Args:
        job: what is made; a call may have another policy and budget.
        policy: of the job; None: without calibration.
        registry: where plugins come from.

    Raises:
        OtcacheError: if the pipeline cannot be opened.
    """

    def __init__(self, job: Job, policy: Policy | None, registry: Registry) -> None:
        self._registry = registry
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

    def make(
        self,
        samples: Sequence[Sample],
        seeds: Sequence[int],
        policy: Policy | None = None,
        budget: int | None = None,
    ) -> list[File]:
        """Make samples in one pipeline call.

        Args:
            samples: prompts, or mappings of call arguments.
            seeds: of their noise.
            policy: instead of the job's.
            budget: instead of the job's.

        Raises:
            OtcacheError: if the pipeline does not take an argument.
            Exception: whatever the pipeline raises.
        """
        maker = self._maker
        if budget is not None:
            maker = replace(maker, policy=policy, budget=budget)
        began = time.perf_counter()
        notices: list[str] = []
        with heard(notices.append):
            outputs, report = maker.make(samples, seeds)
        seconds = (time.perf_counter() - began) / len(samples)
        executed = max(report.computed.values(), default=0)
        files = [encoded(output, self._rate, self._registry) for output in outputs]
        if len(files) != len(samples):
            raise OtcacheError(expected("what a call gives", len(files), f"{len(samples)} samples"))
        said = tuple(dict.fromkeys([*notices, *report.warnings]))
        return [File(*file, executed, seconds, dict(report.expected), said) for file in files]

    @property
    def num_steps(self) -> int:
        """N of runs without a policy.

        Raises:
            OtcacheError: if nothing says it.
        """
        steps = self._maker.num_steps
        return int(usual_steps(self._maker.target, None) if steps is None else steps)

    def check(self, policy: Policy) -> None:
        """Check a policy against the pipeline.

        Raises:
            MismatchError: if it is of another model.
        """
        maker = self._maker
        schedule_of(maker.registry, maker.target, policy, policy.num_steps, probe=maker.probe)


@dataclass(frozen=True)
class JobWorker:
    """Makes pieces of a generation, and writes their files.

    Args:
        workshop: makes samples.
        job: of it.
        prompts: path of the file of prompts; only its ending and the folder of the images it names count.
        store: where files go.
    """

    workshop: Workshop
    job: Job
    prompts: Path
    store: Store

    def make(self, pieces: Sequence[Piece]) -> list[Made]:
        """Make samples in one pipeline call, write their files, and return their lines.

        Raises:
            StoreError: if a file cannot be written.
            OtcacheError: if the pipeline does not take an argument.
            Exception: whatever the pipeline raises.
        """
        samples = [sample_of(self.prompts, piece.line, piece.text) for piece in pieces]
        files = self.workshop.make(samples, [piece.seed for piece in pieces])
        return [self._write(piece, file) for piece, file in zip(pieces, files, strict=True)]

    def _write(self, piece: Piece, file: File) -> Made:
        name = f"{FILES}/{piece.sample:07}-{piece.seed}{file.suffix}"
        self.store.write(name, file.data)
        return Made(
            piece.sample,
            piece.seed,
            digest(piece.text.encode()),
            self.job.budget,
            file.executed,
            name,
            digest(file.data),
            file.seconds,
            file.expected,
        )


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

    def worker(self) -> JobWorker:
        """Open the pipeline.

        Raises:
            OtcacheError: if it cannot be opened.
        """
        registry = Registry.from_description(self.registry)
        workshop = Workshop(self.job, _policy(self.policy), registry)
        return JobWorker(workshop, self.job, Path(self.prompts), Store(self.url))


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
        worker = msgspec.convert(channel.tasks.get(), Opening).worker()
    except ANY as error:
        traceback.print_exc()
        channel.say("failed", reason=shortened(reason_of(error)))
        sys.exit(1)
    channel.say("ready")
    while True:
        pieces = msgspec.convert(channel.tasks.get()["samples"], list[Piece])
        try:
            lines = worker.make(pieces)
        except StoreError as error:
            channel.say("stopped", reason=shortened(str(error)))
        except ANY as error:
            traceback.print_exc()
            channel.say("failed", reason=shortened(reason_of(error)))
        else:
            channel.say("made", lines=msgspec.to_builtins(lines))


if __name__ == "__main__":
    main()
