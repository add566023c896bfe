"""Progress of long work on standard error: bars on a terminal, elsewhere plain lines, with the time left."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from otcache.console import console_on, fitted, print_line, wide_enough

Advance = Callable[[int, int], None]
#: Takes a name, what is being worked on, how many parts are done and how many there are.
Report = Callable[[str, str, int, int], None]
Clock = Callable[[], float]
#: Seconds between plain lines.
EVERY = 30.0
#: Work of fewer seconds ends without a line.
BRIEF = 1.0
#: Points of time that are remembered of one piece of work.
MARKS = 512


def duration(seconds: float) -> str:
    """Return minutes and seconds, with hours where there are any: ``4:05``, ``1:04:05``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


@dataclass
class Pace:
    """How far a piece of work is, and how long the rest will take.

    The rest is expected to take as long a part as the newer half of what is done: work kept from an earlier
    run is done at once, and later parts are often longer.

    Args:
        clock: seconds, of any origin.
        total: parts in all; 0 where that is not known.
        done: parts that are done.
        what: what is being worked on, in words.
        counts: whether the number of parts is shown.
        ask: returns how many parts are done, for work that does not report it.
    """

    clock: Clock
    total: float = 0
    done: float = 0
    what: str = ""
    counts: bool = True
    ask: Callable[[], int] | None = None
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()
        self._marks = [(0.0, self.began)]

    def reach(self, done: float, total: float) -> None:
        """Note that so many parts are done."""
        if done > self.done:
            self._marks.append((done, self.clock()))
            if len(self._marks) > MARKS:
                del self._marks[1:-1:2]
        self.done, self.total = done, total

    def look(self) -> Pace:
        """Call ``ask``, if there is one, to know how far the work is."""
        if self.ask is not None:
            self.reach(min(self.ask(), self.total), self.total)
        return self

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return self.clock() - self.began

    @property
    def left(self) -> float | None:
        """Seconds that it will still take; None while that is not known."""
        if not 0 < self.done < self.total:
            return None
        newest, at = self._marks[-1]
        older, since = max(mark for mark in self._marks if mark[0] <= newest / 2)
        part = (at - since) / (newest - older)
        if not part:  # everything was done before the first look
            return None
        return max(0.0, part * (self.total - self.done) - min(part, self.clock() - at))

    @property
    def counted(self) -> str:
        """``3 of 8``; empty if that is not shown."""
        return f"{self.done:g} of {self.total:g}" if self.total > 1 and self.counts else ""

    def line(self, name: str) -> str:
        """Return ``name: 3 of 8, B = 5, 1:30 elapsed, about 2:30 left``."""
        left = self.left
        parts = [
            self.counted,
            self.what,
            f"{duration(self.elapsed)} elapsed",
            "" if left is None else f"about {duration(left)} left",
        ]
        return f"{name}: {', '.join(part for part in parts if part)}"

    def end(self, name: str) -> str:
        """Return ``name: 8 of 8 in 4:00``, the last line; empty where it took no time."""
        if self.elapsed < BRIEF:
            return ""
        parts = self.counted if self.counts else self.what
        return f"{name}: {parts or 'done'} in {duration(self.elapsed)}"


class Stages:
    """Stages of work one after the other.

    Args:
        show: False prints nothing at all.
        stream: where to; standard error where none is given.
        clock: seconds, of any origin.
    """

    def __init__(
        self, show: bool = True, *, stream: TextIO | None = None, clock: Clock = time.monotonic
    ) -> None:
        self._show, self._stream, self._clock = show, stream, clock
        self._lines = _Lines(self._say, clock)

    @contextmanager
    def stage(
        self, name: str, total: int = 0, *, ask: Callable[[], int] | None = None
    ) -> Iterator[Advance]:
        """Show one piece of work, and give a function of (done, total) that reports how far it is.

        Args:
            name: of the work.
            total: parts in all; 0 where that is not known.
            ask: returns how many parts are done, for work that does not report it; called in another thread.
        """
        if not self._show:
            yield lambda done, total: None
            return
        pace = Pace(self._clock, total, ask=ask)
        with self._board() as board:
            board.add(name, pace)

            def advance(done: int, total: int) -> None:
                pace.reach(done, total)
                board.changed(name)

            yield advance
            board.remove(name, pace.look().end(name))

    @contextmanager
    def rows(self, name: str, total: int) -> Iterator[Report]:
        """Show several pieces of work that go on at the same time, and all together.

        Args:
            name: of all together.
            total: of the pieces.
        """
        if not self._show:
            yield lambda name, what, done, total: None
            return
        with self._board() as board:
            rows = _Rows(name, total, board, self._clock)
            yield rows.report
            rows.end()

    def table(self, what: RenderableType) -> None:
        """Print a table below."""
        if self._show:
            console = wide_enough(what, self._stream or sys.stderr, silent=True)
            console.print(fitted(what, console.encoding))
            self._lines.printed()

    def say(self, text: str) -> None:
        """Print a line below."""
        if self._show:
            self._say(text)
            self._lines.printed()

    def _say(self, text: str) -> None:
        print_line(text, self._console())

    def _console(self) -> Console:
        return console_on(self._stream or sys.stderr, silent=True)

    @contextmanager
    def _board(self) -> Iterator[_Board]:
        console = self._console()
        if console.is_jupyter or (console.file.isatty() and not console.is_dumb_terminal):
            with _progress(console) as progress:
                yield _Bars(progress)
        else:
            with self._lines.ticking():
                yield self._lines


class _Lines:
    """Print lines: every so often what is being worked on, and what is done."""

    def __init__(self, say: Callable[[str], None], clock: Clock) -> None:
        self._say, self._clock = say, clock
        self._last = clock()
        self._paces: dict[str, Pace] = {}
        self._lock = threading.RLock()

    def add(self, name: str, pace: Pace) -> None:
        """Show a piece of work."""
        with self._lock:
            self._paces[name] = pace

    def printed(self) -> None:
        """Restart the wait for the next line."""
        self._last = self._clock()

    def changed(self, name: str) -> None:
        """Show how far it is."""
        self.tick()

    def remove(self, name: str, line: str) -> None:
        """Put a line in its place; none if that is empty."""
        with self._lock:
            del self._paces[name]
            if line:
                self._say(line)
                self.printed()

    def tick(self) -> None:
        """Print if it is time."""
        with self._lock:
            if self._paces and self._clock() - self._last >= EVERY:
                self.printed()
                for name, pace in self._paces.items():
                    self._say(pace.look().line(name))

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Look at the clock in a thread while the work goes on."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(1.0):
                self.tick()

        threading.Thread(target=look, name="otcache-progress", daemon=True).start()
        try:
            yield
        finally:
            done.set()
            self._paces.clear()


class _Bars:
    """A bar for each piece of work, with the same methods."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, tuple[TaskID, Pace]] = {}

    def add(self, name: str, pace: Pace) -> None:
        total = pace.total or None
        self._tasks[name] = (self._progress.add_task(name, total=total, pace=pace), pace)

    def changed(self, name: str) -> None:
        task, pace = self._tasks[name]
        self._progress.update(task, completed=pace.done, total=pace.total or None)

    def remove(self, name: str, line: str) -> None:
        self._progress.remove_task(self._tasks.pop(name)[0])
        if line:
            self._progress.console.print(line, markup=False, highlight=False)


#: Shows pieces of work by name.
_Board = _Lines | _Bars


class _Time(ProgressColumn):
    """Time elapsed, and time left if that is known."""

    def render(self, task: Task) -> Text:
        pace: Pace = task.fields["pace"].look()
        task.completed = pace.done
        left = pace.left
        rest = "" if left is None else f", {duration(left)} left"
        return Text(f"{pace.counted}  {duration(pace.elapsed)}{rest}  {pace.what}".strip())


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        _Time(),
        console=console,
        transient=True,
        # What a program prints to a file must not come out on the terminal instead.
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
    )


class _Rows:
    """Pieces of work at the same time; those that were finished before do not count for the pace."""

    def __init__(self, name: str, total: int, board: _Board, clock: Clock) -> None:
        self._name, self._board, self._clock = name, board, clock
        self._all = Pace(clock, total, what=f"0 of {total}", counts=False)
        self._total, self._kept, self._ended = total, 0, set[str]()
        self._paces: dict[str, Pace] = {}
        self._lock = threading.Lock()
        board.add(name, self._all)

    def report(self, name: str, what: str, done: int, total: int) -> None:
        with self._lock:
            if name in self._ended:
                return
            pace = self._paces.get(name)
            if pace is None:
                if done >= total:
                    self._kept += 1
                pace = self._paces[name] = Pace(self._clock, total)
                self._board.add(name, pace)
            news = what if what != pace.what else ""
            pace.what = what
            pace.reach(done, total)
            if done >= total:
                self._ended.add(name)
            self._count()
            self._board.changed(name)
            if done >= total:
                line = pace.end(name)
                self._board.remove(name, f"{line}, {news}" if line and news else line)

    def end(self) -> None:
        """Say that all of them ended."""
        self._board.remove(self._name, self._all.end(self._name))

    def _count(self) -> None:
        parts = sum(min(1.0, pace.done / max(1.0, pace.total)) for pace in self._paces.values())
        self._all.what = f"{len(self._ended)} of {self._total}"
        self._all.reach(parts - self._kept, self._total - self._kept)
        self._board.changed(self._name)
