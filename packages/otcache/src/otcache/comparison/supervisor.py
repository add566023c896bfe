"""Run a method's worker in a process of its own, and survive whatever it does."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from otcache.comparison.folder import Folder, MethodFolder, locked
from otcache.processes import LOOK, START, WAITING, EndedError, Event, Start, Worker, WorkerProcess
from otcache.progress import Report
from otcache_core.plugins import RegistryDescription

#: How often the worker of a cell may be killed before the cell has failed.
DEATHS = 2


@dataclass(frozen=True)
class Supervisor:
    """Starts workers one after the other until a method has nothing left to do.

    Args:
        folder: of the comparison.
        limit: seconds that one piece of work may take: a calibration, or a setting.
        threads: of each worker; 0 leaves that to its libraries.
        show: called with the method, what it is at, and how many of how many settings are done.
        command: of a worker; folder, method and registry are added to it.
        stop: once set, workers are ended, nothing is written of them, and none is started.
        registry: from which a worker makes its own.
        start: starts a worker.
    """

    folder: Folder
    limit: float
    threads: int
    show: Report
    command: tuple[str, ...] = (sys.executable, "-m", "otcache.comparison.worker")
    stop: threading.Event = field(default_factory=threading.Event)
    registry: RegistryDescription = field(default_factory=RegistryDescription)
    start: Start = WorkerProcess

    def run(self, method: str, *, wait: bool = True) -> bool:
        """Do what is missing of a method. What fails is written and not tried again.

        Args:
            method: its name.
            wait: while another process is at it; otherwise nothing is done then.

        Returns:
            Whether it was free, or became so.
        """
        part = self.folder.of(method)
        with locked(part.path, lambda: wait and not self.stop.is_set()) as held:
            if held:
                self._work(method, part)
        return held

    def _work(self, method: str, part: MethodFolder) -> None:
        killed: Counter[str] = Counter()
        while "" not in part.failures() and not _finished(part):
            ended = None if self.stop.is_set() else _Watch(self, method, part).ended()
            if ended is None or ended.label in part.failures():  # nor begun for ever
                break
            killed[ended.label] += ended.killed
            if not ended.killed or killed[ended.label] >= DEATHS:
                part.keep_failure(ended.label, ended.reason)
        assigned, lost = part.assignment(), len(part.failures())
        total = len(assigned.distinct) if assigned else 1
        self.show(method, f"{lost} could not be run" if lost else "", total, total)


class _Ended(NamedTuple):
    """How a worker ended before all was done.

    Attributes:
        label: of the setting that failed; "": of the whole method.
        reason: in words.
        killed: whether a signal ended it, which says nothing of the setting.
    """

    label: str
    reason: str
    killed: bool = False


def _finished(part: MethodFolder) -> bool:
    """Whether every setting that was assigned has run or failed."""
    assigned, failed = part.assignment(), part.failures()
    return assigned is not None and all(
        label in failed or part.run(label) is not None for label in assigned.distinct
    )


class _Watch:
    """Follows one process."""

    def __init__(self, supervisor: Supervisor, method: str, part: MethodFolder) -> None:
        self._supervisor, self._method, self._part = supervisor, method, part
        self._at, self._working = "", False
        self._labels: list[str] = []

    def ended(self) -> _Ended | None:
        """Return None if it did all its work."""
        supervisor = self._supervisor
        registry = json.dumps(asdict(supervisor.registry))
        command = (*supervisor.command, str(supervisor.folder.path), self._method, registry)
        with supervisor.start(command, self._part.log, supervisor.threads) as process:
            try:
                return self._follow(process)
            except EndedError as ended:
                at = self._at or START
                reason = f"{ended.how} while at {at}: {process.last_words}"
                return self._failure(reason, killed=ended.code < 0)

    def _follow(self, process: Worker) -> _Ended | None:
        limit = self._supervisor.limit
        ends = time.monotonic() + limit
        while not self._supervisor.stop.is_set():
            left = max(0.0, ends - time.monotonic())
            event = process.event(min(left, LOOK))
            if event is None:
                if left:
                    continue
                return self._failure(f"took longer than {limit:g} s")
            if event["event"] == "done":
                return None
            if event["event"] == "absent":
                return _Ended("", event["reason"])
            if event["event"] == "failed":
                return self._failure(f"failed while at {self._at or START}: {event['reason']}")
            if event["event"] in ("begin", "end", WAITING):
                ends = time.monotonic() + limit
            self._note(event)
        return None

    def _note(self, event: Event) -> None:
        if event["event"] == "assigned":
            self._labels = event["labels"]
        elif event["event"] == "begin":
            self._at, self._working = event["what"], True
        elif event["event"] == "end":
            self._working = False
        done = sum(self._part.run(label) is not None for label in self._labels)
        self._supervisor.show(self._method, self._at, done, max(1, len(self._labels)))

    def _failure(self, reason: str, *, killed: bool = False) -> _Ended:
        known = self._working and self._at in self._labels
        return _Ended(self._at if known else "", reason, killed)
