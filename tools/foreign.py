"""Write docs/foreign.md from the result files of benchmarks/foreign: one per sampler of another library.

nox -s foreign          # runs those tests, then this
python tools/foreign.py build/foreign/*.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

OUT = Path(__file__).parent.parent / "docs" / "foreign.md"
#: Level of the tests on one page, after Holm's correction.
LEVEL = 0.05
#: Below this an error is rounding.
FLOOR = 1e-7
COLUMNS = ("otcache", "uniform reuse", "fewer steps")

INTRODUCTION = """\
# Loops of other libraries

The samplers of eleven other libraries, run as their users run them, through calibrate, plan and accelerate.
Made by `nox -s foreign`, which runs `benchmarks/foreign` in an environment of its own and then
`tools/foreign.py` on the results; edit the toys and loops there, not this file.

The denoisers are toys: the exact posterior mean of a mixture of 24 Gaussians, in 32 dimensions or as images
of 8x8, and for the exported ones a network trained on it in seconds. So the numbers say that a loop is
understood, and nothing about any model.

Each loop is calibrated on 8 seeds and asked for a half, a third and a fifth of its N steps. The error is the
RMSE of the final state against the full run, its geometric mean over {seeds} held-out seeds:
**otcache** (uniform reuse; fewer steps of the same sampler). N counts the steps of a schedule: where a step
makes several calls of the denoiser, a computed step makes all of them.

{verdict}

"""


def document(results: Sequence[dict[str, Any]]) -> tuple[str, list[str]]:
    """Return the whole document, and what otcache is worse at."""
    cells = [cell for result in results for cell in _cells(result)]
    worse = _worse(cells)
    seeds = min((len(errors["otcache"]) for _, _, errors in cells), default=0)
    parts = [INTRODUCTION.format(seeds=seeds, verdict=_verdict(cells, worse))]
    for library in dict.fromkeys(result["library"] for result in results):
        parts.append(_section([r for r in results if r["library"] == library]))
    return "\n".join(parts), worse


def _cells(result: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, list[float]]]]:
    for budget, cell in result["budgets"].items():
        yield f"{result['library']}, {result['sampler']}", budget, cell["errors"]


def _worse(cells: Sequence[tuple[str, str, dict[str, list[float]]]]) -> list[str]:
    """Return the cells at which otcache is worse than uniform reuse, by Holm's correction over all.

    One-sided signed rank tests on the logarithms of the errors, seed by seed.
    """
    p = [_p_value(errors) for _, _, errors in cells]
    worse = []
    for rank, i in enumerate(np.argsort(p)):
        if p[i] * (len(p) - rank) > LEVEL:
            break
        worse.append(f"{cells[i][0]} at {cells[i][1]} steps: p {p[i]:.1e}, {_shown(cells[i][2])}")
    return worse


def _p_value(errors: dict[str, list[float]]) -> float:
    ours, theirs = (_logs(errors[name]) for name in COLUMNS[:2])
    difference = ours - theirs
    if not difference.any():
        return 1.0
    test = stats.wilcoxon(difference, alternative="greater", zero_method="zsplit")
    return float(test.pvalue)


def _logs(errors: Sequence[float]) -> NDArray[np.float64]:
    return np.log(np.maximum(np.asarray(errors, np.float64), FLOOR))


def _verdict(cells: Sequence[Any], worse: Sequence[str]) -> str:
    if worse:
        listed = "\n".join(f"- {line}" for line in worse)
        return (
            f"Worse than uniform reuse, of {len(cells)} cells, after Holm's correction:\n\n{listed}"
        )
    ratios = [float(np.mean(_logs(e["otcache"]) - _logs(e["uniform reuse"]))) for _, _, e in cells]
    median = float(np.exp(np.median(ratios))) if ratios else 1.0
    return (
        f"Of {len(cells)} cells none is worse than uniform reuse (one-sided signed rank tests on the "
        f"logarithms of\nthe errors, Holm's correction over the page, level {LEVEL}). The median cell has "
        f"{median:.2g} of its error."
    )


def _section(results: Sequence[dict[str, Any]]) -> str:
    """Return one library's part: the lines that a user writes, the table, the remarks."""
    lines = [f"## {results[0]['library']} {results[0]['version']}", ""]
    for source in dict.fromkeys(result["source"] for result in results):
        lines += ["```python", source.rstrip(), "```", ""]
    measured = [result for result in results if result["budgets"]]
    if measured:
        head = ["sampler", "N", "N/2", "N/3", "N/5"]
        lines += [_line(head), _line(["---"] * len(head)), *map(_row, measured), ""]
    lines += _remarks(results)
    return "\n".join(lines) + "\n"


def _row(result: dict[str, Any]) -> str:
    cells = [_shown(cell["errors"]) for cell in result["budgets"].values()]
    return _line([result["sampler"], str(result["total"]), *cells])


def _shown(errors: dict[str, list[float]]) -> str:
    means = [f"{np.exp(_logs(errors[name]).mean()):.2g}" for name in COLUMNS if name in errors]
    return f"**{means[0]}** ({'; '.join(means[1:])})"


def _remarks(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return refusals and notices, each with the samplers that got it."""
    said: dict[str, list[str]] = {}
    for result in results:
        if result["refused"]:
            said.setdefault(f"refused: “{result['refused']}”", []).append(result["sampler"])
        if result["failed"] not in ("", "refused"):
            said.setdefault(f"failed: “{result['failed']}”", []).append(result["sampler"])
        for notice in result["notices"]:
            said.setdefault(f"notice: “{notice}”", []).append(result["sampler"])
    return [f"- {'; '.join(samplers)}: {text}" for text, samplers in said.items()] + [""] * bool(
        said
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> int:
    """Write the document; return 1 if otcache is worse than uniform reuse or a loop failed, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in given.results]
    results.sort(key=lambda result: result["order"])
    text, worse = document(results)
    given.out.write_text(text.rstrip() + "\n", encoding="utf-8")
    failed = [
        f"{r['library']}, {r['sampler']}: {r['failed']}, {r['refused']}"
        for r in results
        if r["failed"]
    ]
    print(f"{given.out}: {len(results)} samplers", *worse, *failed, sep="\n")
    return int(bool(worse or failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
