"""Run a generation: in this process, or in several that it outlives."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from otcache.generation.job import Job, Prompts, digest
from otcache.generation.manifest import MADE, Made, Manifest
from otcache.generation.store import Store, StoreError
from otcache.generation.worker import JobWorker, Opening, Workshop
from otcache.processes import (
    LOCAL,
    LOOK,
    WAITING,
    EndedError,
    Event,
    Start,
    Worker,
    WorkerProcess,
    open_runner,
)
from otcache.progress import Stages
from otcache.running import load_policy
from otcache_core import OtcacheError
from otcache_core.errors import shortened
from otcache_core.plugins import Registry, installed
from otcache_core.plugins.info import ANY, reason_of
from otcache_core.samples import seeds_of

COMMAND = (sys.executable, "-m", "otcache.generation.worker")
#: So many samples that fail for one reason before any is made are no fault of theirs.
ALIKE = 5
#: How often the process of a sample may end before the sample is set aside.
DEATHS = 2
#: How many workers may be lost with their machines, as where machines are preempted.
LOST = 1000
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Generated:
    """What became of a generation.

    Args:
        made: samples, those of earlier runs too.
        failed: that were set aside, with their reasons.
        manifest: file with a line for each that was made.
    """

    made: int
    failed: tuple[Made, ...]
    manifest: str


@dataclass
class Progress:
    """Which samples are left, and what became of the others; several threads use it.

    Samples of one call stay together, so that a resumed run makes the same files. Where a call fails each of
    its samples is tried alone; what fails alone is set aside, and so is a sample whose process ends twice.

    Args:
        manifest: gets a line for each.
        failure: makes the line of a sample that is set aside, of its index, its seed and the reason.
        advance: called with how many are done.
        waiting: what is left.
        done: how many are not.
        begun: whether one was made, now or earlier.
    """

    manifest: Manifest
    failure: Callable[[tuple[int, int], str], Made]
    advance: Callable[[int], None]
    waiting: deque[Pairs] = field(default_factory=deque)
    done: int = 0
    begun: bool = False
    _deaths: Counter[tuple[int, int]] = field(default_factory=Counter)
    _early: list[Made] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def waits(self) -> bool:
        """Whether something waits to be made."""
        with self._lock:
            return bool(self.waiting)

    def take(self) -> Pairs | None:
        """Return what is made next; None if nothing waits."""
        with self._lock:
            return self.waiting.popleft() if self.waiting else None

    def made(self, pairs: Pairs, lines: Sequence[Made]) -> None:
        """Note what was made; of a call that an earlier run made in part, only what is new."""
        self.begun = True
        new = [line for line in lines if not self.manifest.knows(line.sample, line.seed)]
        self._keep(new, len(pairs))
        self.end()

    def failed(self, pairs: Pairs, reason: str) -> None:
        """Note that a call failed.

        Raises:
            OtcacheError: if the first samples of all fail for one reason; none of them is set aside then.
        """
        if len(pairs) > 1:
            self._again(pairs)
            return
        line = self.failure(pairs[0], reason)
        with self._lock:
            if not self.begun:
                self._early.append(line)
                if len(self._early) >= ALIKE and len({one.reason for one in self._early}) == 1:
                    raise OtcacheError(f"the first {ALIKE} samples fail alike: {reason}")
                return
        self._keep([line], 1)

    def end(self) -> None:
        """Set aside what failed before anything was made."""
        with self._lock:
            early, self._early = self._early, []
        self._keep(early, len(early))

    def lost(self, pairs: Pairs, reason: str) -> None:
        """Note that the process of a call has ended."""
        with self._lock:
            self._deaths.update(pairs)
            often = self._deaths[pairs[0]] >= DEATHS
        if often:
            self.failed(pairs, reason)
        else:
            self.give_back(pairs)

    def give_back(self, pairs: Pairs) -> None:
        """Leave a call for another process."""
        with self._lock:
            self.waiting.appendleft(pairs)

    def _again(self, pairs: Pairs) -> None:
        with self._lock:
            for pair in pairs:
                self._deaths[pair] = 0
            self.waiting.extendleft((pair,) for pair in reversed(pairs))

    def _keep(self, lines: Sequence[Made], count: int) -> None:
        self.manifest.add(lines)
        with self._lock:
            self.done += count
            self.advance(self.done)


def generate(
    job: Job,
    prompts: str | Path,
    url: str,
    *,
    policy: str | Path | None = None,
    workers: int = 1,
    runner: str = LOCAL,
    limit: float = 600.0,
    overwrite: bool = False,
    retry: bool = False,
    stages: Stages | None = None,
    registry: Registry | None = None,
    store: Store | None = None,
) -> Generated:
    """Make every prompt of a file with every seed, and write files and a manifest.

    An interrupted generation goes on where it stopped. The same job gives the same files, however many
    processes work on it and however often it is interrupted.

    Args:
        job: what is made; its digests are filled in here.
        prompts: file of prompts: one a line, or JSON lines with call arguments.
        url: folder, or URL for fsspec.
        policy: file of the policy; None: without calibration.
        workers: processes, each with a pipeline of its own; 0 works in this process.
        runner: where they run: ``local``, or ``ray``.
        limit: seconds that one call may take, and opening the pipeline.
        overwrite: make everything again in a folder of another job.
        retry: try again what was set aside.
        stages: shows progress.
        registry: where plugins come from; None: the installed ones.
        store: instead of that of the URL.

    Raises:
        OtcacheError: if the pipeline cannot be opened, the policy is of another one, a seed is none, or the
            first samples fail alike, or several processes are to share the memory of one.
        FileError: if the prompts or the policy cannot be read, the folder holds another job, or the store
            fails again and again.
    """
    if job.seeds:
        seeds_of(job.seeds)
    registry, stages = registry or installed(), stages or Stages(show=False)
    lines, store = Prompts.of(Path(prompts)), store or Store(url)
    loaded = None if policy is None else load_policy(policy)
    job = msgspec.structs.replace(
        job,
        prompts=lines.sha256,
        policy="" if policy is None else digest(Path(policy).read_bytes()),
    )
    if workers and url.startswith("memory://"):
        raise OtcacheError(f"{url}: is the memory of one process: give --workers 0.")
    manifest = job.begin(store, overwrite=overwrite)
    if retry:
        manifest.forget_failures()
    pairs = list(lines.pairs(job.seeds))
    batches = [
        tuple(pairs[at : at + job.batch_size]) for at in range(0, len(pairs), job.batch_size)
    ]
    waiting = deque(b for b in batches if not all(manifest.knows(*pair) for pair in b))
    known = len(pairs) - sum(map(len, waiting))

    def failure(pair: tuple[int, int], reason: str) -> Made:
        text = lines.lines[pair[0]][1]
        return Made(*pair, digest(text.encode()), job.budget, reason=shortened(reason))

    with stages.stage("making samples", len(pairs)) as advance:
        advance(known, len(pairs))
        begun = any(not line.reason for line in manifest.lines)
        progress = Progress(
            manifest, failure, lambda done: advance(done, len(pairs)), waiting, known, begun
        )
        try:
            if not workers:
                worker = JobWorker(Workshop(job, loaded, registry), job, lines.path, store)
                _here(worker, progress, lines)
            elif waiting:
                text = "" if policy is None else Path(policy).read_text(encoding="utf-8")
                path = str(lines.path.resolve())
                opening = Opening(job, path, text, store.absolute, registry.description())
                number = min(workers, len(waiting))
                with open_runner(runner, number) as start:
                    Workers(opening, lines, progress, number, limit, start).run()
            progress.end()
        finally:
            manifest.keep()
    manifest.finish()
    found = manifest.lines
    failed = tuple(line for line in found if line.reason)
    return Generated(len(found) - len(failed), failed, store.name(MADE))


def _here(worker: JobWorker, progress: Progress, prompts: Prompts) -> None:
    while (pairs := progress.take()) is not None:
        try:
            lines = worker.make(prompts.pieces(pairs))
        except StoreError:
            raise
        except ANY as error:
            progress.failed(pairs, reason_of(error))
        else:
            progress.made(pairs, lines)


@dataclass
class Workers:
    """Processes that take what is left until nothing is.

    Args:
        opening: what each must know.
        prompts: of the job.
        progress: what is left.
        number: of processes.
        limit: seconds that one call may take.
        start: starts one.
    """

    opening: Opening
    prompts: Prompts
    progress: Progress
    number: int
    limit: float
    start: Start = WorkerProcess
    _stop: threading.Event = field(default_factory=threading.Event)
    _unopened: int = 0
    _lost: int = 0

    def run(self) -> None:
        """Work until nothing is left.

        Raises:
            OtcacheError: if a worker cannot begin, or its store fails.
        """
        with (
            tempfile.TemporaryDirectory() as folder,
            ThreadPoolExecutor(self.number) as pool,
        ):
            logs = [Path(folder) / f"{n}.log" for n in range(self.number)]
            futures = [pool.submit(self._follow, log) for log in logs]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                self._stop.set()
                raise

    def _follow(self, log: Path) -> None:
        """Start processes, one after the other, while something is left."""
        try:
            while not self._stop.is_set() and self.progress.waits():
                self._work(log)
        except BaseException:
            self._stop.set()
            raise

    def _work(self, log: Path) -> None:
        """Start a process and give it calls until it ends or nothing is left."""
        threads = max(1, (os.cpu_count() or 1) // self.number) if self.number > 1 else 0
        with self.start(COMMAND, log, threads) as process:
            try:
                process.give(msgspec.to_builtins(self.opening))
                opened = self._event(process)
            except EndedError as ended:
                self._unopened += not self._is_lost(ended)
                if self._unopened >= DEATHS:
                    reason = f"{ended.how} at its start: {process.last_words}"
                    raise OtcacheError(f"a worker {reason}") from None
                return
            if opened is None:
                return
            if opened["event"] != "ready":
                raise OtcacheError(opened["reason"])
            self._unopened = 0
            while not self._stop.is_set() and (taken := self.progress.take()) is not None:
                try:
                    pieces = self.prompts.pieces(taken)
                    process.give({"samples": msgspec.to_builtins(pieces)})
                    event = self._event(process)
                except EndedError as ended:
                    if self._is_lost(ended):
                        self.progress.give_back(taken)
                    else:
                        self.progress.lost(taken, f"its process {ended.how}: {process.last_words}")
                    return
                if event is None:
                    return
                self._note(taken, event)
                if event["event"] == "late":
                    return

    def _is_lost(self, ended: EndedError) -> bool:
        """Return whether a machine was lost, which no prompt is to blame for.

        Raises:
            OtcacheError: if too many were.
        """
        self._lost += bool(ended.lost)
        if self._lost > LOST:
            raise OtcacheError(f"more than {LOST} workers were lost; the last one {ended.how}")
        return bool(ended.lost)

    def _event(self, process: Worker) -> Event | None:
        """Return what a worker says; an event ``late`` if it takes too long.

        None if all are to stop, or it has no machine yet and nothing waits for it any more.
        """
        ends = time.monotonic() + self.limit
        while not self._stop.is_set():
            left = ends - time.monotonic()
            event = process.event(max(0.0, min(left, LOOK)))
            if event is not None and event["event"] == WAITING:
                if not self.progress.waits():
                    return None
                ends = time.monotonic() + self.limit
            elif event is not None and event["event"]:
                return event
            if left <= 0:
                return {"event": "late", "reason": f"it took longer than {self.limit:g} s"}
        return None

    def _note(self, pairs: Pairs, event: Event) -> None:
        if event["event"] == "made":
            self.progress.made(pairs, msgspec.convert(event["lines"], list[Made]))
        elif event["event"] == "stopped":
            raise StoreError(event["reason"])
        else:
            self.progress.failed(pairs, event["reason"])
