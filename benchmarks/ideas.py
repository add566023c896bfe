"""Three ideas beside the default recipe, on the demo pipeline: ``python benchmarks/ideas.py OUT``.

Guided, N = 30, held-out prompts and seeds; RMSE against the full run, of latents and of decoded
pictures. Every plan is fitted in closed loop by one and the same rule (ideas_loop.py) on calibration
prompts, so rows differ in the idea alone. OUT keeps what is finished; OUT/ideas.md is the table.

1. ideas_branches.py: the two branches of guidance on schedules of their own.
2. ideas_inputs.py: what an input's first outputs say about the rest of its schedule.
3. ideas_displacement.py: displacement vectors of forecast spans as planning objective.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path

import ideas_branches
import ideas_displacement
import ideas_inputs
import numpy as np
from ideas_bench import BUDGETS, HELD_PROMPTS, HELD_SEEDS, LADDER, TUNING_PROMPTS, Bench, Row
from ideas_loop import N

from otcache.report.statistics import paired_ratio

IDEAS = {
    "branches": (ideas_branches, "Schedules of single branches under guidance"),
    "inputs": (ideas_inputs, "The rest of the schedule from an input's first outputs"),
    "displacement": (ideas_displacement, "Displacement vectors of forecast spans as objective"),
}
Results = dict[int, dict[str, Row]]


def results(bench: Bench, name: str) -> Results:
    """Measure what is not in OUT yet."""
    found = {}
    for budget in BUDGETS:
        path = bench.out / f"{name}-{budget}.json"
        if not path.exists():
            path.write_text(json.dumps(IDEAS[name][0].measure(bench, budget)))
        found[budget] = json.loads(path.read_text())
        for row, values in found[budget].items():
            print(f"{name} B = {budget}  {row}  {np.mean(values['decoded']):.5f}", flush=True)
    return found


def table(found: Results, metric: str, groups: list[int]) -> list[str]:
    """Mean error, and its ratio to the first row's."""
    names = list(found[BUDGETS[0]])
    lines = [
        f"| {metric} RMSE | " + " | ".join(f"B = {b}" for b in BUDGETS) + " |",
        "|---|" + "--:|" * len(BUDGETS),
    ]
    for name in names:
        cells = []
        for b in BUDGETS:
            ours, first = found[b][name][metric], found[b][names[0]][metric]
            text = f"{np.mean(ours):.5f}"
            if name != names[0]:
                ratio = paired_ratio(ours, first, groups)
                text += f" ({ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}])"
            cells.append(text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def notes(found: Results) -> list[str]:
    """What was run."""
    lines = ["<details><summary>What was chosen</summary>", ""]
    for budget, rows in found.items():
        lines += [f"- B = {budget}"]
        lines += [f"  - {name}: {row['note']}" for name, row in rows.items() if row["note"]]
    return [*lines, "", "</details>", ""]


def main() -> None:
    """Measure the ideas asked for and write the tables of all that are finished."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=IDEAS, default=list(IDEAS))
    asked = parser.parse_args()
    bench = Bench(asked.out)
    text = [
        "# Ideas tried",
        "",
        f"Made by `nox -s bench -- ideas OUT`: the demo pipeline, guided, N = {N}, two CPU cores. Tuned on "
        f"{TUNING_PROMPTS} calibration prompts, measured on {HELD_PROMPTS} held-out prompts x "
        f"{len(HELD_SEEDS)} seeds; in brackets the ratio to the first row with its 95 % bootstrap interval "
        "over prompts. The loop of this benchmark differs from the pipeline's own results by "
        f"{bench.check():.0e}.",
        "",
        f"*Default policy* is the default recipe with rungs at B = {', '.join(map(str, LADDER))} (its own "
        "ladder is in steps of about 1.25), so that every budget below is one of its rungs, measured on "
        f"{date.today():%-d %B %Y}.",
        "",
    ]
    for name, (module, title) in IDEAS.items():
        if name not in asked.only:
            continue
        found = results(bench, name)
        text += [f"## {title}", "", module.ABOUT, ""]
        for metric in ("latent", "decoded"):
            text += table(found, metric, bench.held.groups)
        text += [module.CONCLUSION, "", *notes(found)]
        (asked.out / "ideas.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
