"""1,000 demo images by the local runner and by Ray: ``python benchmarks/generation.py OUT``.

A policy is calibrated with the quick effort at N = 12, and B = 4 images are made from 1,000 prompts, by the
local runner with two workers, by Ray with two, and by both with one of them killed (SIGKILL) after a seeded
number of denoiser calls. Each has to give 1,000 manifest lines, no sample twice, none missing, and the
digests of the local runner. Throughput is counted between the 100th and the last file, against the plain
loop: the same policy, calls and files without any runner, as one process on both cores and as two on one
each; the faster one counts. Writes OUT/generation.json; exit status 1 if anything differs or is lost.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from demo_runs import parser

from otcache.media import Maker, encoded
from otcache.running import load_policy
from otcache_core.plugins import installed
from otcache_diffusers import demo

COUNT, STEPS, BUDGET, BATCH, WORKERS, FROM = 1000, 12, 4, 4, 2, 100
#: Denoiser calls after which a worker is killed lie between these.
CALLS = (50, 400)
LEAST = 0.85


def mortal() -> Any:
    """Return the demo; the process that makes the seeded denoiser call is killed, once."""
    pipe, calls = demo.load(), 0
    last, marker = int(os.environ["KILL_AFTER"]), Path(os.environ["KILL_MARKER"])

    def count(*call: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == last and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    pipe.transformer.register_forward_pre_hook(count)
    return pipe


def prompts(path: Path, count: int) -> None:
    """Write prompts that are all different."""
    sizes, colours = ("large", "small"), ("red", "blue", "green", "yellow")
    shapes = ("circle", "square", "star", "triangle")
    texts = [
        f"a {size} {colour} {shape}" for size, colour, shape in product(sizes, colours, shapes)
    ]
    lines = [texts[n % len(texts)] for n in range(count)]
    path.write_text("\n".join(lines), encoding="utf-8")


def run(*words: str, **environment: str) -> float:
    """Run a command that must succeed, and return its seconds."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, *words],
        check=True,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
    )
    return time.monotonic() - began


def generate(out: Path, pipeline: str, *more: str, **environment: str) -> float:
    """Run ``otcache generate``."""
    here = str(Path(__file__).parent)
    known = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    sets = [f"--set={name}={json.dumps(value)}" for name, value in demo.CALL.items()]
    return run(
        *("-m", "otcache", "generate", pipeline, "--prompts", str(out.parent / "prompts.txt")),
        *(
            "--policy",
            str(out.parent / "policy.otcache"),
            "--budget",
            str(BUDGET),
            "--out",
            str(out),
        ),
        *("--batch-size", str(BATCH), "--workers", str(WORKERS), *sets, *more),
        PYTHONPATH=known,
        **environment,
    )


def plain(out: Path, part: int, parts: int) -> None:
    """Make every parts-th call of the prompts in this process, without a runner."""
    maker = Maker(demo.load(), load_policy(out.parent / "policy.otcache"), BUDGET, call=demo.CALL)
    lines = (out.parent / "prompts.txt").read_text(encoding="utf-8").splitlines()
    out.mkdir(exist_ok=True)
    for at in range(part * BATCH, len(lines), BATCH * parts):
        seeds = range(at, min(at + BATCH, len(lines)))
        outputs, _ = maker.make([lines[n] for n in seeds], list(seeds))
        for n, output in zip(seeds, outputs, strict=True):
            suffix, data = encoded(output, 16, installed())
            (out / f"{n:07}-{n}{suffix}").write_bytes(data)


def plain_processes(out: Path, parts: int) -> None:
    """Run the plain loop in so many processes that share the cores."""
    threads = str(max(1, (os.cpu_count() or 1) // parts))
    words = [sys.executable, __file__, str(out), "--plain"]
    running = [
        subprocess.Popen(
            [*words, f"{part}/{parts}"], env={**os.environ, "OMP_NUM_THREADS": threads}
        )
        for part in range(parts)
    ]
    if any(process.wait() for process in running):
        raise RuntimeError("a plain loop failed")


def rate(folder: Path) -> float:
    """Return files a second between the 100th and the last one."""
    times = sorted(path.stat().st_mtime for path in folder.glob("*.*"))
    return (len(times) - FROM) / (times[-1] - times[FROM - 1])


def _first(folder: Path) -> float:
    return min(path.stat().st_mtime for path in folder.iterdir())


def manifest(out: Path) -> dict[tuple[int, int], str]:
    """Return the digests; raises if a sample is there twice."""
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    found = {(line["sample"], line["seed"]): line["sha256"] for line in lines}
    if len(found) != len(lines):
        raise RuntimeError(f"{out}: {len(lines) - len(found)} lines are there twice")
    return found


def calibrate(out: Path) -> None:
    """Write the policy."""
    lines = [text for text, _ in demo.prompts()["calibration"]][:2]
    (out / "two.txt").write_text("\n".join(lines), encoding="utf-8")
    common = ("--effort", "quick", "--budgets", str(BUDGET), "--steps", str(STEPS))
    run(
        *("-m", "otcache", "calibrate", "demo", *common),
        *("--prompts", str(out / "two.txt"), "--out", str(out / "calibration")),
    )
    run("-m", "otcache", "plan", str(out / "calibration"), "--out", str(out / "policy.otcache"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything and print what was counted."""
    command = parser(__doc__)
    command.add_argument("--count", type=int, default=COUNT)
    command.add_argument("--without-ray", action="store_true")
    command.add_argument("--plain", help="a part of the plain loop, as 0/2; OUT is its folder")
    options = command.parse_args(arguments)
    out: Path = options.out.resolve()
    if options.plain:
        plain(out, *map(int, options.plain.split("/")))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    prompts(out / "prompts.txt", options.count)
    if not (out / "policy.otcache").exists():
        calibrate(out)
    found: dict[str, Any] = {"cores": os.cpu_count(), "images": options.count}
    for parts in (1, 2):
        plain_processes(out / f"plain-{parts}", parts)
        found[f"plain loop in {parts}, images a second"] = round(rate(out / f"plain-{parts}"), 3)
    best = max(value for name, value in found.items() if name.startswith("plain"))
    chance = random.Random(0)
    kill = {"KILL_AFTER": str(chance.randint(*CALLS)), "KILL_MARKER": str(out / "killed")}
    runs = {"local": ("demo", (), {}), "local, killed": ("generation:mortal", (), kill)}
    if not options.without_ray:
        by_ray = ("--runner", "ray")
        runs |= {"ray": ("demo", by_ray, {}), "ray, killed": ("generation:mortal", by_ray, kill)}
    wanted: dict[tuple[int, int], str] = {}
    lost = 0
    for name, (pipeline, more, environment) in runs.items():
        Path(kill["KILL_MARKER"]).unlink(missing_ok=True)
        folder = out / name.replace(", ", "-")
        began = time.time()
        seconds = generate(folder, pipeline, *more, **environment)
        made = manifest(folder)
        wanted = wanted or made
        different = sum(made.get(key) != value for key, value in wanted.items())
        lost += different + abs(len(made) - options.count)
        found[name] = {
            "lines": len(made),
            "other digests than local": different,
            "images a second": round(rate(folder / "samples"), 3),
            "of the plain loop": round(rate(folder / "samples") / best, 3),
            "seconds in all": round(seconds),
            "seconds before the first file": round(_first(folder / "samples") - began, 1),
            **({"killed after calls": int(kill["KILL_AFTER"])} if environment else {}),
            **({"was killed": Path(kill["KILL_MARKER"]).exists()} if environment else {}),
        }
    (out / "generation.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps(found, indent=1))
    slow = any(
        found[name]["of the plain loop"] < LEAST for name in ("local", "ray") if name in found
    )
    return int(bool(lost) or slow)


if __name__ == "__main__":
    sys.exit(main())
