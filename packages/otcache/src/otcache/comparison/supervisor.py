"""Run a method's worker in a process of its own, and survive whatever it does."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import IO, Any, TextIO

from otcache.comparison.folder import Folder, MethodFolder
from otcache.progress import Report
from otcache_core.plugins import RegistryDescription
from otcache_core.plugins.plugin_scan import end_group

Event = dict[str, Any]
#: Seconds between looks at whether to stop, and what a worker is at before it says so.
LOOK, START = 0.5, "its start"


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
        with self._part.log.open("ab") as log:
            process = self._start(log)
            try:
                return self._follow(process)
            finally:
                end_group(process)

    def _start(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        if self._supervisor.threads:
            environment["OMP_NUM_THREADS"] = str(self._supervisor.threads)
        registry = json.dumps(asdict(self._supervisor.registry))
        path = str(self._supervisor.folder.path)
        command = [*self._supervisor.command, path, self._method, registry]
        # Ctrl-C reaches this process alone; a worker ends when its standard input is closed.
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            start_new_session=True,
        )

    def _follow(self, process: subprocess.Popen[bytes]) -> tuple[str, str] | None:
        assert process.stdout is not None
        lines, limit = lines_of(process.stdout), self._supervisor.limit
        ends = time.monotonic() + limit
        while not self._supervisor.stop.is_set():
            left = max(0.0, ends - time.monotonic())
            try:
                line = lines.get(timeout=min(left, LOOK))
            except queue.Empty:
                if process.poll() is not None and lines.empty():  # a child of it holds the pipe
                    return self._after(process.wait())
                if left:
                    continue
                return self._failure(f"took longer than {limit:g} s")
            if line is None:
                return self._after(process.wait())
            event = _event(line)
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

    def _after(self, code: int) -> tuple[str, str]:
        """Return what is known of a process that did not say how it ended."""
        lines = self._part.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1].strip() if lines else "it said nothing"
        how = f"ended by signal {-code}" if code < 0 else f"ended with status {code}"
        return self._failure(f"{how} while at {self._at or START}: {last}")

    def _failure(self, reason: str) -> tuple[str, str]:
        known = self._working and self._at in self._labels
        return (self._at if known else ""), reason


def _event(line: bytes) -> Event:
    """Return the event of a line; what was printed before there was a channel is none."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    return event if isinstance(event, dict) and "event" in event else {"event": ""}


def lines_of(stream: IO[bytes]) -> queue.Queue[bytes | None]:
    """Read a stream in a thread; return its lines as they come, and None at its end."""
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        with stream:
            for line in stream:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


#: Exit status of a worker whose supervisor has ended.
ORPHANED = 3


class Channel:
    """The worker's end: one JSON object a line on standard output.

    Whatever libraries print goes to standard error from here on. Standard input is a pipe that closes when
    the supervisor ends, in whatever way: this process ends then too, in the middle of its work.
    """

    def __init__(self) -> None:
        threading.Thread(target=_end_with, args=(sys.stdin.fileno(),), daemon=True).start()
        sys.stdout.flush()
        self._lines: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, event: str, **facts: Any) -> None:
        """Send an event.

        Args:
            event: ``begin`` and ``end`` of a piece of work with a time limit of its own, ``step`` inside
                one, ``assigned`` once settings are assigned to budgets, ``absent`` or ``failed`` with the
                reason, ``done`` at the end.
            facts: plain data.
        """
        self._lines.write(json.dumps({"event": event, **facts}) + "\n")
        self._lines.flush()


def _end_with(pipe: int) -> None:
    # Below Python's buffers: their lock, held here, would abort the interpreter when it ends in peace.
    while os.read(pipe, 1):
        pass
    os._exit(ORPHANED)
