"""The promises of the demo, checked: quality, speed, time and memory.

Run it on a quiet machine of two cores, with the packages installed: ``python benchmarks/acceptance.py OUT``.
It runs ``otcache demo`` in a process of its own, keeps its files in OUT, writes OUT/evidence.md, and exits
with status 1 if a promise is not kept.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

from speed import measured

import otcache
from otcache.report.analysis import paired_comparisons
from otcache.report.results import Results
from otcache.report.tables import markdown_table, paired_markdown
from otcache_core.calibration import Calibration
from otcache_core.policy import Policy

RIVALS = ("uniform", "fewer steps", "LeMiCa rule")
SECONDS, GIBIBYTES, SHARE = 360, 3.0, 0.9


def _quality(results: Results) -> list[tuple[str, bool]]:
    rows = []
    for pair in paired_comparisons(results):
        if pair.baseline in RIVALS:
            kept = pair.verdict == "better" or (pair.budget >= 15 and pair.verdict != "worse")
            rows.append((f"RMSE at B = {pair.budget} against {pair.baseline}: {pair.verdict}", kept))
    return rows


def _speed(policy: Policy) -> tuple[str, bool]:
    """The loop alone, in pairs with full runs: the table has whole calls, decoding included."""
    schedule = policy.schedule(policy.num_steps // 3)
    found, text = measured(schedule, 8), "speedup of the denoising loop at B = N/3"
    if found.speedup is None:
        return f"{text}: withheld, since {found.withheld}", False
    median, half = found.speedup
    share = median / schedule.ideal_speedup
    told = f"{text}: {median:.2f} ±{half:.2f}, {share:.2f} of the ideal (at least {SHARE})"
    return told, share >= SHARE


def ladder_markdown(calibration: Calibration) -> str:
    """Error of every candidate at each rung, on the calibration samples; the one kept is bold.

    Figures behind a ~ were measured on a part of the samples.
    """
    names = list(dict.fromkeys(name for rung in calibration.ladder for name in rung.candidates))
    lines = ["| B | " + " | ".join(names) + " |", "|--:|" + "--:|" * len(names)]
    for rung in calibration.ladder:
        figures = []
        for name in names:
            entry = rung.candidates.get(name)
            text = "-" if entry is None or entry.error is None else f"{entry.error:.5f}"
            if entry is not None and entry.samples < len(calibration.samples):
                text = f"~{text}"
            figures.append(f"**{text}**" if name == rung.winner else text)
        lines.append(f"| {rung.schedule.budget} | " + " | ".join(figures) + " |")
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
    price = ", ".join(f"{stage} {nfe:,}" for stage, nfe in results.ledger.items())
    text = [
        "# Evidence",
        "",
        "Made by `python benchmarks/acceptance.py OUT` on two CPU cores: the demo pipeline at N = "
        f"{results.num_steps}, true guidance, {len(results.labels)} held-out samples, none of them "
        "used in calibration.",
        "",
        "Calibration, in denoiser evaluations (one is both guidance branches of one sample at one step): "
        f"{price}.",
        "",
        "The otcache row is, at each rung of its ladder, the best of the interpolated and the two planned "
        "schedules by cross-validated error on the calibration samples, with fitted forecasts. "
        "*Adams-Bashforth* extrapolates two outputs on a uniform schedule, *MeanCache rule* corrects by "
        "mean velocities; *uniform* and *LeMiCa rule* reuse outputs. *Fewer steps* is the plain pipeline "
        "called with B steps, *UniPC* the same with another sampler.",
        "",
        markdown_table(results),
        "## Pair by pair",
        "",
        paired_markdown(results),
        "## Who won the rungs",
        "",
        "Geometric mean RMSE on the calibration samples, all with fitted forecasts. *quantile* is the "
        "interpolation of anchor and reference; at the anchor's and the reference's own budgets it is "
        "that schedule itself.",
        "",
        ladder_markdown(Calibration.load(out / "calibration")),
        "## Promises",
        "",
        *lines,
        "",
    ]
    (out / "evidence.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(lines))
    return int(not all(kept for _, kept in checks))


if __name__ == "__main__":
    sys.exit(main())
