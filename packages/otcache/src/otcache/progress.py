"""Progress bars of a calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

Advance = Callable[[int, int], None]


class Stages:
    """One bar a stage, on standard error; silent where ``show`` is False."""

    def __init__(self, show: bool = True) -> None:
        self._console = Console(stderr=True, quiet=not show)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """A bar from 0 to total; the function given takes (done, total)."""
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(name, total=total)
            yield lambda done, total: progress.update(task, completed=done, total=total)

    @contextmanager
    def rows(self) -> Iterator[Callable[[str, str, int, int], None]]:
        """A bar for each name that is reported; the function takes (name, what, done, total)."""
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[what]}", style="dim"),
        )
        tasks: dict[str, TaskID] = {}
        with Progress(*columns, console=self._console) as progress:

            def report(name: str, what: str, done: int, total: int) -> None:
                if name not in tasks:
                    tasks[name] = progress.add_task(name, total=total, what=what)
                if done >= total:
                    progress.stop_task(tasks[name])
                progress.update(tasks[name], completed=done, total=total, what=what)

            yield report

    def table(self, what: RenderableType) -> None:
        """A table below the bars."""
        self._console.print(what)

    def say(self, text: str) -> None:
        """A line below the bars."""
        self._console.print(text, markup=False, highlight=False)
