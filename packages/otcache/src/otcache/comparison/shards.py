"""A comparison in shares, as the tasks of a job array, and its folders joined again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from otcache.comparison.folder import LOCK, OWN, WORK, Folder, Plan, locked
from otcache_core import FileError, OtcacheError
from otcache_core.errors import expected
from otcache_core.storage.files import make_folder


@dataclass(frozen=True)
class Shard:
    """A share of a comparison's methods.

    Args:
        number: 1 .. count.
        count: of shares.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``2/4``.

        Raises:
            OtcacheError: if it is no such share.
        """
        number, _, count = text.partition("/")
        if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise OtcacheError(expected("--shard", text, "a number and a count, as 2/4, from 1/4 on"))

    def of(self, methods: Sequence[str]) -> list[str]:
        """Return the methods of this share: every count-th one, so that slow neighbours are spread."""
        return list(methods[self.number - 1 :: self.count])


def joined(folders: Sequence[Folder], into: Folder) -> tuple[Folder, Plan]:
    """Bring what is finished in some folders into one.

    A method is taken from the folder that has finished most of it.

    Args:
        folders: of one job.
        into: may be one of them.

    Returns:
        The folder, and the methods of all plans.

    Raises:
        FileError: if a folder has no comparison, or another one than the first.
    """
    job, plans = folders[0].job, []
    for folder in folders:
        if not folder.holds(job):
            raise FileError(f"{folder.path}: is of another comparison than {folders[0].path}.")
        plan = folder.plan
        if plan is None:
            raise FileError(f"{folder.path}: has no plan.json: run otcache compare there first.")
        plans.append(plan)
    if into.path.is_dir() and any(into.path.iterdir()) and not into.holds(job):
        raise FileError(f"{into.path}: must be a new folder, or one of this comparison.")
    into.begin(job, overwrite=False)
    for part in (OWN, WORK):
        for name in sorted(
            {one.name for folder in folders for one in _folders(folder.path / part)}
        ):
            places = [folder.path / part / name for folder in folders]
            best = max([into.path / part / name, *places], key=_finished)
            _take(best, into.path / part / name)
    methods = dict.fromkeys(method for plan in plans for method in plan.methods)
    shared = into.plan is not None and into.plan.shared
    plan = Plan(tuple(methods), plans[0].metrics, plans[0].command, shared)
    into.keep_plan(plan)
    return into, plan


def _folders(path: Path) -> list[Path]:
    return [one for one in path.iterdir() if one.is_dir()] if path.is_dir() else []


def _finished(path: Path) -> tuple[int, int]:
    """Return how much is finished of a method, and whether it has failures at least."""
    kept = [one.name for one in path.rglob("*.json")]
    failures = kept.count("failures.json")
    return len(kept) - failures, failures


def _take(source: Path, target: Path) -> None:
    """Bring a method's files into a folder: arrays are linked where they can be, and come before facts.

    Raises:
        FileError: if a process is at the method in the folder, or a file cannot be written.
    """
    if source.resolve() == target.resolve():
        return
    with locked(target, lambda: False) as held:
        if not held:
            raise FileError(f"{target}: another process works in it.")
        try:
            for path in target.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()
            files = [path for path in source.rglob("*") if path.is_file() and _is_kept(path)]
            for path in sorted(files, key=lambda path: path.suffix == ".json"):
                with suppress(FileNotFoundError):  # a process is at it there, and has replaced it
                    _copy(path, target / path.relative_to(source))
        except OSError as error:
            raise FileError(f"{target}: cannot be written: {error.strerror}.") from error


def _is_kept(path: Path) -> bool:
    return path.name != LOCK and not path.name.startswith(".")


def _copy(path: Path, place: Path) -> None:
    make_folder(place.parent)
    if path.suffix == ".safetensors":  # is replaced as a whole, never changed
        with suppress(OSError):
            os.link(path, place)
            return
    shutil.copyfile(path, place)
