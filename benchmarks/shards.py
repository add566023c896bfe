"""Whether a comparison survives being divided and killed: ``python benchmarks/shards.py OUT``.

The methods of the demo on two calibration prompts at N = 20, B = 4 and 8. Four shares in folders of their
own, one after the other, and the same four at once in one folder, each joined: ``results.json`` must be that
of one run, but for times, memory and the command line. Then ``kill -9`` of the command or of its worker at
ten seeded points of a comparison of three methods, and the same command again where it was killed: the same
results, and no file that was finished at the kill may have been written again. Exit status 1 if anything
differs.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from demo_runs import parser

from otcache.demo.preset import BASELINES
from otcache_diffusers import demo

COMMON = ("--steps", "20", "--budgets", "4,8", "--samples", "4", "--reference-steps", "0")
#: The methods of ``otcache demo``.
METHODS = ("--methods", ",".join(["otcache", *BASELINES.values()]))
FEW = ("--methods", "uniform,meancache,l2p")
SHARES, KILLS, LIMIT = 4, 10, 1800
#: Fields that differ from run to run.
TIMED = (
    "seconds",
    "measured_speedup",
    "speedup_spread",
    "seconds_spread",
    "peak_bytes",
    "withheld",
)


def command(out: Path, *more: str) -> list[str]:
    """Return the command line of a comparison."""
    prompts = out.parent / "two.txt"
    if not prompts.exists():
        texts = [text for text, _ in demo.prompts()["calibration"]][:2]
        prompts.write_text("\n".join(texts), encoding="utf-8")
    files = ("--calibration-prompts", str(prompts), "--out", str(out))
    return [sys.executable, "-m", "otcache", "compare", "demo", *COMMON, *more, *files]


def run(*words: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def join(out: Path, *folders: Path) -> None:
    """Run ``otcache report`` on shares."""
    run(sys.executable, "-m", "otcache", "report", *map(str, folders), "--out", str(out))


def results(folder: Path) -> Any:
    """Return what must be equal of a comparison's results."""
    facts = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    facts.pop("command")
    for cell in facts["cells"]:
        for name in TIMED:
            cell.pop(name, None)
    return facts


def differing(a: Any, b: Any, place: str = "") -> list[str]:
    """Return where two results differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for k in sorted({*a, *b}) for d in differing(a.get(k), b.get(k), f"{place}.{k}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [
            d
            for n, (x, y) in enumerate(zip(a, b, strict=True))
            for d in differing(x, y, f"{place}[{n}]")
        ]
    return [] if a == b else [f"{place}: {str(a)[:80]} and {str(b)[:80]}"]


def divided(out: Path) -> list[str]:
    """Run one comparison whole, in shares of their own, and in shares of one folder."""
    began = time.monotonic()
    whole = out / "whole"
    run(*command(whole, *METHODS))
    print(f"whole: {time.monotonic() - began:.0f} s", flush=True)
    apart = [out / f"share-{n}" for n in range(1, SHARES + 1)]
    for n, folder in enumerate(apart, 1):
        run(*command(folder, *METHODS, "--shard", f"{n}/{SHARES}"))
    join(out / "joined", *apart)
    together = out / "together"
    at_once = [
        subprocess.Popen(
            command(together, *METHODS, "--shard", f"{n}/{SHARES}"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for n in range(1, SHARES + 1)
    ]
    codes = [process.wait() for process in at_once]
    join(together, together)
    wanted, faults = results(whole), [f"a share ended with {code}" for code in codes if code]
    for folder in (out / "joined", together):
        found = differing(wanted, results(folder), folder.name)
        print(f"{folder.name}: {len(wanted['cells'])} cells, {len(found)} differences", flush=True)
        faults += found
    return faults


def _finished(folder: Path) -> dict[str, int]:
    files = [*folder.glob("own/*/run-*"), *folder.glob("work/*/run-*")]
    return {str(path): path.stat().st_mtime_ns for path in files if path.suffix != ".tmp"}


def _processes(parent: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        own = psutil.Process(parent.pid)
        return [own, *own.children()]
    except psutil.NoSuchProcess:
        return []


def killed(out: Path, seed: int, wanted: Any) -> list[str]:
    """Kill a process of a comparison at a seeded moment, go on, and compare."""
    chance = random.Random(seed)
    folder, after, whom = out / f"killed-{seed}", chance.randint(0, 8), chance.random()
    pause = chance.random() * 3
    words = command(folder, *FEW)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(_finished(folder)) < 2 * after:
            time.sleep(0.05)
        time.sleep(pause)
        family = _processes(process)
        before = _finished(folder)
        victim = family[0] if whom < 0.5 or len(family) < 2 else family[-1]
        victim.send_signal(signal.SIGKILL)
        what = "command" if victim.pid == process.pid else "worker"
        code = process.wait()
    for _ in count():
        if code == 0:
            break
        code = subprocess.run(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode
    after_all = _finished(folder)
    again = [f"{name} was made again" for name, at in before.items() if after_all.get(name) != at]
    found = [*again, *differing(wanted, results(folder), folder.name)]
    print(
        f"kill {seed}: the {what}, with {len(before) // 2} settings finished: "
        f"{len(again)} of them again, {len(found) - len(again)} differences",
        flush=True,
    )
    shutil.rmtree(folder)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, print what differs, and return 1 if anything does."""
    command_line = parser(__doc__)
    command_line.add_argument("--only", choices=("shares", "kills"))
    options = command_line.parse_args(arguments)
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    faults = divided(out) if options.only != "kills" else []
    if options.only != "shares":
        few = out / "few"
        run(*command(few, *FEW))
        wanted = results(few)
        faults += [fault for seed in range(KILLS) for fault in killed(out, seed, wanted)]
    print("\n".join(faults[:40]) or "nothing differs")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
