"""A comparison in shares, as the tasks of a job array, and its folders joined again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from otcache.comparison.folder import LOCK, OWN, WORK, Folder, Plan
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
    into.begin(job, overwrite=False)
    for part in (OWN, WORK):
        for name in sorted(
            {one.name for folder in folders for one in _folders(folder.path / part)}
        ):
            places = [folder.path / part / name for folder in folders]
            best = max([into.path / part / name, *places], key=_finished)
            _take(best, into.path / part / name)
    methods = dict.fromkeys(method for plan in plans for method in plan.methods)
    plan = Plan(tuple(methods), plans[0].metrics, plans[0].command)
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
    """Bring a method's files into a folder: links where they can be, facts after what they are of."""
    if source.resolve() == target.resolve():
        return
    try:
        shutil.rmtree(target, ignore_errors=True)
        files = [path for path in source.rglob("*") if path.is_file() and path.name != LOCK]
        for path in sorted(files, key=lambda path: path.suffix == ".json"):
            place = target / path.relative_to(source)
            make_folder(place.parent)
            with suppress(OSError):
                os.link(path, place)
                continue
            shutil.copyfile(path, place)
    except OSError as error:
        raise FileError(f"{target}: cannot be written: {error.strerror}.") from error
