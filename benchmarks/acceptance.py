"""The promises of the demo, checked: quality, speed, time and memory.

Run it on a quiet machine of two cores, with the packages installed: ``python benchmarks/acceptance.py OUT``.
It runs ``otcache demo`` in a process of its own, keeps its files in OUT, writes OUT/evidence.md with the
tables of docs/evidence.md, and exits with status 1 if a promise is not kept.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

from demo_runs import DemoRuns, head, row, write

import otcache
from otcache.comparison.timing import Pair, Speed, speed, take_turns
from otcache.report.analysis import paired_comparisons
from otcache.report.results import Results
from otcache.report.tables import markdown_table, paired_markdown
from otcache_core.calibration import Calibration
from otcache_core.policy import Policy

BASELINES = ("uniform", "fewer steps", "LeMiCa rule")
SECONDS, GIBIBYTES, SHARE = 360, 3.0, 0.9
BATCH, PAIRS = 8, 9


def _quality(results: Results) -> list[tuple[str, bool]]:
    rows = []
    for pair in paired_comparisons(results):
        if pair.baseline in BASELINES:
            kept = pair.verdict == "better" or (pair.budget >= 15 and pair.verdict != "worse")
            rows.append(
                (f"RMSE at B = {pair.budget} against {pair.baseline}: {pair.verdict}", kept)
            )
    return rows


def measured(schedule: otcache.Schedule) -> Speed:
    """Measure the speed of a schedule's loop beside the full run's, both warm."""
    runs = DemoRuns(counts=(0, BATCH), batch=BATCH)
    runs.held_seeds = list(range(BATCH))
    full, ideal = otcache.Schedule.full(runs.num_steps), schedule.ideal_speedup

    def seconds(taken: otcache.Schedule) -> float:
        with otcache.accelerate(runs.pipe, taken) as run:
            runs.sample()
        return run.report.seconds

    pairs = list[Pair]()
    seconds(full)
    seconds(schedule)
    while len(pairs) < PAIRS:
        turns = {"": lambda _: seconds(schedule)}
        pairs += take_turns(lambda _: seconds(full), turns, {"": ideal})[""]
    return speed(pairs, ideal)


def _speed(policy: Policy) -> tuple[str, bool]:
    """Check the loop alone, in pairs with full runs: the table has whole calls, decoding included."""
    schedule = policy.schedule(policy.num_steps // 3)
    found, text = measured(schedule), "speedup of the denoising loop at B = N/3"
    if found.speedup is None:
        return f"{text}: withheld, since {found.withheld}", False
    median, half = found.speedup
    share = median / schedule.ideal_speedup
    return (
        f"{text}: {median:.2f} ±{half:.2f}, {share:.2f} of the ideal (at least {SHARE})",
        share >= SHARE,
    )


def ladder_markdown(calibration: Calibration) -> str:
    """Write the error of every candidate at each rung, on the calibration samples; the one kept is bold.

    Figures behind a ~ were measured on a part of the samples.
    """
    names = list(dict.fromkeys(name for rung in calibration.ladder for name in rung.candidates))
    lines = head((), ("B", *names))
    for rung in calibration.ladder:
        figures = []
        for name in names:
            entry = rung.candidates.get(name)
            text = "-" if entry is None or entry.error is None else f"{entry.error:.5f}"
            if entry is not None and entry.samples < len(calibration.samples):
                text = f"~{text}"
            figures.append(f"**{text}**" if name == rung.winner else text)
        lines.append(row(str(rung.schedule.budget), *figures))
    return "\n".join([*lines, ""])


def main() -> int:
    """Run, check, write; 0 if every promise is kept."""
    out = Path(sys.argv[1])
    start = time.perf_counter()
    subprocess.run(["otcache", "demo", "--out", str(out)], check=True)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    results = Results.load(out / "results.json")
    checks = [
        *_quality(results),
        _speed(otcache.load_policy(out / "policy.otcache")),
        (f"wall time {seconds:.0f} s (at most {SECONDS})", seconds <= SECONDS),
        (f"peak memory {memory:.2f} GiB (at most {GIBIBYTES})", memory <= GIBIBYTES),
    ]
    lines = [f"- {'kept' if kept else '**missed**'}: {text}" for text, kept in checks]
    nfe = ", ".join(f"{stage} {count:,}" for stage, count in results.stage_nfe.items())
    text = [
        f"Calibration, in denoiser evaluations: {nfe}.",
        "",
        markdown_table(results),
        "## Pair by pair",
        "",
        paired_markdown(results),
        "## Candidates of the rungs",
        "",
        ladder_markdown(Calibration.load(out / "calibration")),
        "## Promises",
        "",
        *lines,
    ]
    write(out / "evidence.md", text)
    print("\n".join(lines))
    return int(not all(kept for _, kept in checks))


if __name__ == "__main__":
    sys.exit(main())
