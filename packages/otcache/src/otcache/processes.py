"""Work in a process of its own: this end, which starts it and follows it, and the worker's end.

A runner says where: on this machine, or on an engine by its name. It is an entry point of the group
``otcache.runners``: called with the number of workers, it returns a context whose value starts them.

Both speak in JSON objects, one a line. A worker ends when this process does, in whatever way; whatever it
prints goes to a log.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import IO, Any, Protocol, Self, TextIO

from otcache_core import OtcacheError, PluginError
from otcache_core.plugins.info import reason_of
from otcache_core.plugins.plugin_scan import end_group

Event = dict[str, Any]
#: Entry points of runners, the one that is always there, and what brings others.
RUNNERS, LOCAL, EXTRAS = "otcache.runners", "local", {"ray": "otcache[ray]"}
#: Seconds between looks at whether to stop, and what a worker is at before it says so.
LOOK, START = 0.5, "its start"
#: Event of a worker that has no machine yet; its time does not begin before it has.
WAITING = "waiting"
#: Exit status of a worker whose supervisor has ended.
ORPHANED = 3


class EndedError(Exception):
    """A worker process has ended.

    Attributes:
        code: its exit status; negative: the signal that ended it.
        lost: why nothing is known of how it ended, its machine is gone; empty otherwise.
    """

    def __init__(self, code: int, lost: str = "") -> None:
        super().__init__(code)
        self.code, self.lost = code, lost

    @property
    def how(self) -> str:
        """Say how."""
        if self.lost:
            return f"was lost with its machine ({self.lost})"
        return (
            f"ended by signal {-self.code}" if self.code < 0 else f"ended with status {self.code}"
        )


class Worker(Protocol):
    """What follows a worker, wherever it runs."""

    def give(self, task: Event) -> None:
        """Send the worker a task; what has ended already takes none."""

    def event(self, timeout: float) -> Event | None:
        """Return what the worker says next; None if it says nothing for so many seconds.

        Raises:
            EndedError: if it has ended and said all it had to.
        """

    @property
    def last_words(self) -> str:
        """The last line of the log."""


#: Starts a worker by its command, the file that gets what it prints, and threads of its libraries; 0 leaves
#: those to them. The worker ends, and its children, when the context is left.
Start = Callable[[Sequence[str], Path, int], AbstractContextManager[Worker]]


class WorkerProcess(Worker):
    """A worker on this machine: a context manager that ends it, and its children, on the way out.

    Args:
        command: of it.
        log: what it prints is added to this file.
        threads: of its libraries; 0 leaves that to them.
    """

    def __init__(self, command: Sequence[str], log: Path, threads: int = 0) -> None:
        environment = dict(os.environ)
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        self._log = log
        with log.open("ab") as errors:
            # Ctrl-C reaches this process alone; a worker ends when its standard input is closed.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self._lines = lines_of(self._process.stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        end_group(self._process)

    def give(self, task: Event) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()

    def event(self, timeout: float) -> Event | None:
        ends = time.monotonic() + timeout
        while True:
            left = ends - time.monotonic()
            try:
                line = self._lines.get(timeout=max(0.0, min(left, LOOK)))
            except queue.Empty:
                if self._process.poll() is not None and self._lines.empty():
                    raise EndedError(self._process.wait()) from None  # a child of it holds the pipe
                if left <= 0:
                    return None
                continue
            if line is None:
                raise EndedError(self._process.wait())
            return _event(line)

    @property
    def last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"


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


@contextmanager
def open_runner(name: str, workers: int) -> Iterator[Start]:
    """Open a runner: the value of the context starts workers.

    Args:
        name: ``local``, or that of an installed runner.
        workers: at most so many run at a time.

    Raises:
        OtcacheError: if no runner has the name.
        PluginError: if it cannot be opened.
    """
    if name == LOCAL:
        yield WorkerProcess
        return
    point = _find(name)
    with ExitStack() as stack:
        try:
            start: Start = stack.enter_context(point.load()(workers))
        except OtcacheError:
            raise
        except Exception as error:
            raise PluginError(f"runner {name!r} cannot be opened: {reason_of(error)}") from error
        yield start


def _find(name: str) -> EntryPoint:
    points = {point.name: point for point in entry_points(group=RUNNERS)}
    if name in points:
        return points[name]
    if name in EXTRAS:
        raise OtcacheError(
            f"--runner {name} needs what is not installed: pip install '{EXTRAS[name]}'."
        )
    known = ", ".join([LOCAL, *sorted({*points, *EXTRAS})])
    raise OtcacheError(f"no runner is called {name!r}. Known: {known}.")


class Channel:
    """The worker's end: one JSON object a line on standard output, and tasks on standard input.

    Whatever libraries print goes to standard error from here on. Standard input closes when the supervisor
    ends, in whatever way: this process ends then too, in the middle of its work.

    Attributes:
        tasks: what was given, in order.
    """

    def __init__(self) -> None:
        self.tasks: queue.Queue[Event] = queue.Queue()
        threading.Thread(target=self._listen, args=(sys.stdin.fileno(),), daemon=True).start()
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

    def _listen(self, pipe: int) -> None:
        # Below Python's buffers: their lock, held here, would abort the interpreter when it ends in peace.
        unfinished = b""
        while part := os.read(pipe, 65536):
            *lines, unfinished = (unfinished + part).split(b"\n")
            for line in lines:
                self.tasks.put(json.loads(line))
        os._exit(ORPHANED)
