"""Run a method's worker in a process of its own, and survive whatever it does."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import asdict, dataclass, field

from otcache.comparison.folder import Folder, MethodFolder
from otcache.processes import LOOK, START, EndedError, Event, WorkerProcess
from otcache.progress import Report
from otcache_core.plugins import RegistryDescription


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
    """

    folder: Folder
    limit: float
    threads: int
    show: Report
    command: tuple[str, ...] = (sys.executable, "-m", "otcache.comparison.worker")
    stop: threading.Event = field(default_factory=threading.Event)
    registry: RegistryDescription = field(default_factory=RegistryDescription)

    def run(self, method: str) -> None:
        """Do what is missing of a method. What fails is written and not tried again."""
        part = self.folder.of(method)
        while "" not in part.failures() and not _finished(part):
            ended = None if self.stop.is_set() else _Watch(self, method, part).ended()
            if ended is None or ended[0] in part.failures():  # nor begun for ever
                break
            part.keep_failure(*ended)
        assigned, lost = part.assignment(), len(part.failures())
        total = len(assigned.distinct) if assigned else 1
        self.show(method, f"{lost} could not be run" if lost else "", total, total)


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

    def ended(self) -> tuple[str, str] | None:
        """Return None if it did all its work, else the setting that failed ("" for all) and why."""
        supervisor = self._supervisor
        registry = json.dumps(asdict(supervisor.registry))
        command = (*supervisor.command, str(supervisor.folder.path), self._method, registry)
        with WorkerProcess(command, self._part.log, supervisor.threads) as process:
            try:
                return self._follow(process)
            except EndedError as ended:
                at = self._at or START
                return self._failure(f"{ended.how} while at {at}: {process.last_words}")

    def _follow(self, process: WorkerProcess) -> tuple[str, str] | None:
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
                return "", event["reason"]
            if event["event"] == "failed":
                return self._failure(f"failed while at {self._at or START}: {event['reason']}")
            if event["event"] in ("begin", "end"):
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

    def _failure(self, reason: str) -> tuple[str, str]:
        known = self._working and self._at in self._labels
        return (self._at if known else ""), reason
