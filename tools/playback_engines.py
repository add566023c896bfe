"""Write docs/playback-engines.md: what torch, ONNX Runtime and a browser make of one playback table.

nox -s engines                                   # runs the examples, then this
python tools/playback_engines.py build/engines   # of the folder that they wrote
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGE = """\
# Playback on other engines

One [playback table](playback.md) of the image demo, followed by three engines. Made by `nox -s engines`,
which exports the demo's networks (`examples/playback_export.py`), runs `examples/playback_onnx.py` and
`examples/browser`, and then `tools/playback_engines.py`; edit those, not this file.

{count} held-out prompts with guidance {scale:g}: two denoiser calls a step. N = {n}, B = {budget}; one thread
in every engine. Full runs and those by the table are made in turns, every prompt three times: times are
medians of a run, a speedup is the median of the pairs' with the quartiles. The machine has {cores} cores; its
load average after the last run was {load:.1f} (above 1, other work was in the way).

{table}

Differences are those of final latents, whose largest value is {size:.1f}, in full and by the table: float32
sums in another order. By the table a latent differs from that of the full run by {error:.4f} (RMSE) on every
engine: that is the error of the schedule.

![The image demo in a browser: in full, and by the table](playback-browser.png)

The numpy example, `examples/playback_numpy.py`, needs `otcache-core` alone, and prints:

```console
{numpy}
```
"""
COLUMNS = (
    *("engine", "denoiser calls", "steps are torch's", "largest difference from torch"),
    *("s a run, in full", "by the table", "speedup", "N / B"),
)


def row(found: dict[str, Any], ratio: float, own: bool = False) -> str:
    """Return a line of the table; of torch itself there is nothing to compare."""
    pairs = np.array(found["seconds"])
    (full, fast), ratios = np.median(pairs, axis=0), pairs[:, 0] / pairs[:, 1]
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    speedup = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    calls = f"{found['calls'][1]} of {found['calls'][0]}"
    same = "" if own else "yes" if found["same_steps"] else "**no**"
    difference = "" if own else f"{found['difference']:.1e}"
    times = f"{full:.2f} | {fast:.2f} | {speedup} | {ratio:.2f}"
    return f"| {found['engine']} | {calls} | {same} | {difference} | {times} |"


def torch_figures(runs: list[dict[str, Any]], num_steps: int) -> dict[str, Any]:
    """Return the figures of torch as those of an engine."""
    computed = [len(steps) for run in runs for steps in run["torch"]["computed"].values()]
    seconds = [pair for run in runs for pair in run["torch"]["seconds"]]
    calls = [num_steps * len(computed), sum(computed)]
    return {"engine": "torch, `otcache.accelerate`", "calls": calls, "seconds": seconds}


def page(folder: Path) -> str:
    """Return the page of a folder."""
    facts, table, *engines = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("demo", "table", "onnxruntime", "browser")
    )
    runs, n = facts["runs"], table["num_steps"]
    budget = sum(terms is None for terms in table["branches"][""]["forecasts"])
    full, fast = (np.array([run["torch"][way] for run in runs]) for way in ("full", "fast"))
    rows = [f"| {' | '.join(COLUMNS)} |", "|---|--:|---|" + 5 * "--:|"]
    rows += [row(torch_figures(runs, n), n / budget, own=True)]
    rows += [row(found, n / budget) for found in engines]
    words = [sys.executable, str(ROOT / "examples" / "playback_numpy.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return PAGE.format(
        count=len(runs),
        scale=facts["scale"],
        n=n,
        budget=budget,
        table="\n".join(rows),
        size=np.abs(full).max(),
        error=np.sqrt(np.square(fast - full).mean()),
        numpy=done.stdout.strip(),
        cores=os.cpu_count(),
        load=os.getloadavg()[0],
    )


def main(folder: Path) -> None:
    """Write the page and its image; fails if an engine took other steps than torch."""
    text = page(folder)
    (DOCS / "playback-engines.md").write_text(text, encoding="utf-8")
    shutil.copyfile(folder / "browser.png", DOCS / "playback-browser.png")
    if "**no**" in text:
        raise SystemExit("an engine computes other steps than torch: see the page.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
