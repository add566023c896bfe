"""What saturates first on many machines: ``python benchmarks/scaling.py OUT``.

Reads what ``shards`` and ``generation`` measured in OUT: the time of each method of a comparison, and of each
pipeline call of a generation; measures what the command itself does for each call (a line of the manifest,
into a folder), and takes 50 ms for a write into a store. Then simulates 1 to 64 workers that take the next
call, or the next method, when they are free, while the command serves one of them at a time. Writes
OUT/scaling.md.
"""

from __future__ import annotations

import heapq
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from demo_runs import parser, row, write

from otcache.generation.manifest import Made, Manifest
from otcache.generation.store import Store

WORKERS = (1, 2, 4, 8, 16, 32, 64)
#: Calls of the simulated generation, samples in each, and seconds of an image on a large model.
CALLS, BATCH, LARGE = 5000, 4, 5.0
#: Seconds of a write through a network, and lines that the manifest collects for one.
REMOTE = 0.05


def method_seconds(folder: Path) -> dict[str, float]:
    """Return the time of each method of a comparison that ran them in turn, with its process's start."""
    ends = {
        part.name: max(path.stat().st_mtime for path in part.glob("*.json"))
        for part in [*(folder / "own").iterdir(), *(folder / "work").iterdir()]
    }
    order = sorted(ends, key=lambda name: ends[name])
    return {after: ends[after] - ends[before] for before, after in pairwise(order)}


def line_seconds(lines: int = 2000) -> float:
    """Measure what a call of BATCH samples costs the command, in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Manifest(Store(folder))
        began = time.perf_counter()
        for call in range(lines // BATCH):
            made = [
                Made(call * BATCH + n, n, "0" * 64, 4, 4, f"samples/{n}.png", "0" * 64, 1.0)
                for n in range(BATCH)
            ]
            manifest.add(made)
        return (time.perf_counter() - began) / (lines // BATCH)


def makespan(seconds: Sequence[float], workers: int, start: float, serial: float) -> float:
    """Return when all is done: each worker takes the next piece when free, and reports it to one command.

    Args:
        seconds: of each piece.
        workers: how many.
        start: seconds before a worker's first piece.
        serial: seconds for which the command is at one piece, and at no other.
    """
    free = [start] * workers
    heapq.heapify(free)
    command = 0.0
    for piece in seconds:
        done = heapq.heappop(free) + piece
        command = max(command, done) + serial
        heapq.heappush(free, command)
    return max(free)


def main() -> None:
    """Simulate, and write the tables."""
    out: Path = parser(__doc__).parse_args().out
    methods = method_seconds(out / "shards" / "whole")
    text = (out / "generation" / "local" / "manifest.jsonl").read_text(encoding="utf-8")
    calls = [json.loads(line)["seconds"] * BATCH for line in text.splitlines()][::BATCH]
    known = json.loads((out / "generation" / "generation.json").read_text(encoding="utf-8"))
    start = known["local"]["seconds before the first file"]
    local, remote = line_seconds(), REMOTE * BATCH / 20
    small = [calls[n % len(calls)] for n in range(CALLS)]
    large = [LARGE * BATCH] * CALLS
    longest = max(methods, key=lambda name: methods[name])
    lines = [
        f"Comparison: {len(methods)} methods, {sum(methods.values()):.0f} s, the longest {longest} with "
        f"{methods[longest]:.0f} s. Generation: {statistics.mean(calls):.2f} s a call of {BATCH} demo "
        f"images; the command is at a call for {local * 1e3:.1f} ms in a folder, {remote * 1e3:.0f} ms "
        f"through a store whose writes take {REMOTE * 1e3:.0f} ms.",
        "",
        row(
            "workers",
            "comparison",
            "demo images, folder",
            "demo images, store",
            "5 s images, store",
        ),
        row("--:", "--:", "--:", "--:", "--:"),
    ]
    order = sorted(methods.values(), reverse=True)
    columns = (
        (order, 0.0, 0.0),
        (small, start, local),
        (small, start, remote),
        (large, start, remote),
    )
    for workers in WORKERS:
        cells = [
            makespan(seconds, 1, begin, serial)
            / makespan(seconds, workers, begin, serial)
            / workers
            for seconds, begin, serial in columns
        ]
        lines.append(row(str(workers), *(f"{cell:.2f}" for cell in cells)))
    write(out / "scaling.md", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
