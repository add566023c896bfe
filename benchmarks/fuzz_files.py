"""Damage valid files in thousands of ways: everything loads and works, or is refused in words.

``python benchmarks/fuzz_files.py [MUTATIONS] [SEED] [LOADER]`` runs every loader and importer in processes
of their own, with a bound on their memory and on the CPU seconds of each file, and prints a table of what
became of the mutations. One that is neither used nor refused with an OtcacheError is printed with its
number; ``--one LOADER NUMBER SEED`` runs it again, in this process and with its traceback.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fuzzing.comparisons import comparison_loaders
from fuzzing.loaders import Loader, mutate
from fuzzing.loaders import loaders as plain_loaders

from otcache_core import FileError, OtcacheError
from otcache_core.errors import OtcacheNotice

#: Bytes that a file may take beside what the process has when it begins, its CPU seconds, and how long it
#: may wait for anything.
MEMORY, SECONDS, WAITED = 2**30, 5.0, 120.0
BATCH = 500
#: Characters of a message, at most.
LONGEST = 6000
LOADED, REFUSED, MISUSED = "used", "FileError", "another OtcacheError"


def loaders() -> Iterator[Loader]:
    """All of them, those that need torch last."""
    yield from plain_loaders()
    yield from comparison_loaders()
    from fuzzing.measures import measure_loaders

    yield from measure_loaders()


def outcome(loader: Loader, seed: int, number: int, folder: Path) -> str:
    """Return what becomes of one mutation: how it was refused, that it was used, or what went wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = random.Random(f"{seed} {loader.name} {number}")
    path = rng.choice(loader.make(folder))
    mutate(rng, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", OtcacheNotice)
        try:
            loader.use(path)
        except OtcacheError as error:
            text = str(error)
            text.encode()  # it can be printed
            if len(text) > LONGEST:
                return f"a message of {len(text)} characters"
            named = str(folder) in text
            return REFUSED if isinstance(error, FileError) and named else MISUSED
    return LOADED


def work(name: str, seed: int, first: int, last: int) -> None:
    """Run some mutations of one loader, and print a line of JSON for each."""
    loader = next(loader for loader in loaders() if loader.name == name)
    with tempfile.TemporaryDirectory() as place:
        for path in loader.make(Path(place)):
            with contextlib.suppress(OtcacheError):
                loader.use(path)  # what it imports at first use is not a file's cost
        bound()
        for number in range(first, last):
            say(number=number)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, WAITED)
            began = time.process_time()
            try:
                found = outcome(loader, seed, number, Path(place) / "files")
            except BaseException as error:
                found = f"{type(error).__name__} at {_where(error)}: {error}"[:500]
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            say(found=found, seconds=time.process_time() - began)


def bound() -> None:
    """Let this process take no more memory than a file is worth."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def say(**facts: object) -> None:
    """Notify the process that watches."""
    print(json.dumps(facts), flush=True)


def batch(name: str, seed: int, first: int, last: int) -> list[tuple[int, str, float]]:
    """Yield number, outcome and seconds of mutations ``first`` to ``last``."""
    found: list[tuple[int, str, float]] = []
    while first < last:
        command = [sys.executable, __file__, "--work", name, str(seed), str(first), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
        number = None
        for line in done.stdout.splitlines():
            facts = json.loads(line)
            if "found" in facts:
                found.append((number or 0, facts["found"], facts["seconds"]))
                number = None
            else:
                number = facts["number"]
        if number is None:
            if done.returncode:
                raise SystemExit(done.stderr)
            break
        limits = {signal.SIGPROF: f"more than {SECONDS} CPU seconds", signal.SIGALRM: "it waits"}
        ended = limits.get(-done.returncode, done.stderr[-300:])
        found.append((number, f"the process ended ({done.returncode}): {ended}", SECONDS))
        first = number + 1
    return found


def main(mutations: int = 20_000, seed: int = 0, only: str = "") -> int:
    """Run all, print the table; returns how many mutations were neither used nor refused."""
    chosen = [loader for loader in loaders() if only in loader.name]
    whole = sum(loader.share for loader in chosen)
    rows, wrong = [], []
    for loader in chosen:
        count = round(mutations * loader.share / whole)
        found = [
            row
            for first in range(0, count, BATCH)
            for row in batch(loader.name, seed, first, min(count, first + BATCH))
        ]
        kinds = Counter(
            what if what in (LOADED, REFUSED, MISUSED) else "wrong" for _, what, _ in found
        )
        seconds = [s for _, _, s in found]
        rows.append((loader.name, len(found), kinds, sum(seconds), max(seconds, default=0.0)))
        bad = [(n, what) for n, what, _ in found if what not in (LOADED, REFUSED, MISUSED)]
        wrong += bad
        for number, what in bad:
            print(f"{loader.name} {number}: {what}", flush=True)
    print(
        "| loader | mutations | used | FileError | another OtcacheError | wrong | CPU s | longest s |"
    )
    print("|---|" + "--:|" * 7)
    for name, count, kinds, total, longest in rows:
        cells = [kinds[kind] for kind in (LOADED, REFUSED, MISUSED, "wrong")]
        print(f"| {name} | {count} | {' | '.join(map(str, cells))} | {total:.0f} | {longest:.2f} |")
    return len(wrong)


def again(name: str, number: int, seed: int) -> None:
    """Run one mutation in this process."""
    loader = next(loader for loader in loaders() if loader.name == name)
    with tempfile.TemporaryDirectory() as place:
        print(outcome(loader, seed, number, Path(place) / "files"))


def _where(error: BaseException) -> str:
    """File and line of ours that an error came from."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "otcache" in f.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--work", name, seed, first, last]:
            work(name, int(seed), int(first), int(last))
        case ["--one", name, number, *seed]:
            again(name, int(number), int(*seed or [0]))
        case [*rest]:
            numbers = [int(text) for text in rest[:2]]
            sys.exit(bool(main(*numbers, *rest[2:])))
