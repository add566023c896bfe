"""Run otcache's verbs beside hostile packages: ``python tools/beside_hostile.py OUT``.

Every verb has to succeed, each ``--json`` to be one JSON document, the doctor to name every package with
its remedy, and no verb may import a plugin that it does not need. Prints one line per verb; the exit status
is 1 if any failed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hostile_packages import DAMAGED, PACKAGES, write

FEW = ("--steps", "12")
VERBS: dict[str, tuple[str, ...]] = {
    "calibrate": ("calibrate", "demo", *FEW, "--prompts", "two.txt", "--out", "calibration"),
    "plan": ("plan", "calibration", "--out", "policy"),
    "plan by a solver": ("plan", "calibration", "--solver", "shortest-path", "--out", "other"),
    "run": (
        "run",
        "demo",
        "--policy",
        "policy",
        "--budget",
        "4",
        "--prompt",
        "a",
        "--out",
        "a.png",
    ),
    "inspect": ("inspect", "policy"),
    "estimate": ("estimate", "flux-1-dev"),
    "demo": ("demo", "--quick", "--out", "demo"),
}
#: Runs a verb, and says how many CPU seconds that took this process, its children not counted.
CLOCKED = """import atexit, sys, time
atexit.register(lambda: print("CPU", time.process_time(), file=sys.stderr))
from otcache.cli import main
main()
"""
#: CPU seconds of our own process that a list may take: the first time, and when what was read is kept.
FIRST, AGAIN = 12.0, 1.0
#: Needs two plugins that fail; their row and column are missing, and everything else is there.
COMPARE = (
    *("compare", "demo", *FEW, "--budgets", "4", "--samples", "2", "--reference-steps", "0"),
    *("--calibration-prompts", "two.txt", "--methods", "uniform,leaving"),
    *("--metrics", "rmse,psnr,rude-metric", "--out", "comparison"),
)


class FailedError(Exception):
    """A verb did not do what it has to."""


def main() -> int:
    """Write the packages and run every verb."""
    out = Path(sys.argv[1]).resolve()
    shutil.rmtree(out, ignore_errors=True)
    write(out / "site")
    (out / "traces").mkdir()
    (out / "two.txt").write_text("a large red circle\nthe digit 7\n", encoding="utf-8")
    os.chdir(out)
    places = [str(out / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(places)
    os.environ["HOSTILE_TRACES"] = str(out / "traces")
    os.environ["OTCACHE_CACHE_DIR"] = str(out / "cache")
    checks = [(name, lambda words=words: isolated(words)) for name, words in VERBS.items()]
    checks += [("compare", compared), ("plugins list", listed), ("plugins doctor", examined)]
    return max([report(name, check) for name, check in checks])


def report(name: str, check: Any) -> int:
    """Run one check and print a line; return 1 if it failed."""
    began = time.monotonic()
    try:
        said = check()
    except FailedError as error:
        print(f"{name}: FAILED: {error}", flush=True)
        return 1
    print(f"{name}: {said} ({time.monotonic() - began:.1f} s)", flush=True)
    return 0


def document(words: Sequence[str], status: int = 0) -> Any:
    """Return the JSON document that a verb prints."""
    return clocked(words, status)[0]


def clocked(words: Sequence[str], status: int = 0) -> tuple[Any, float]:
    """Return the JSON document that a verb prints, and the CPU seconds of its process."""
    command = [sys.executable, "-c", CLOCKED, *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode != status:
        raise FailedError(f"exit status {done.returncode}: {done.stderr.strip()[-600:]}")
    try:
        return json.loads(done.stdout), float(done.stderr.split()[-1])
    except ValueError as error:
        raise FailedError(f"no JSON: {done.stdout[:200]!r}") from error


def isolated(words: Sequence[str]) -> str:
    """Run a verb that needs none of their plugins."""
    document(words)
    traces = sorted(path.name for path in Path("traces").iterdir())
    if traces:
        raise FailedError(f"it imported {', '.join(traces)}")
    return "done, none of their modules imported"


def compared() -> str:
    """Compare with a baseline and a metric that fail."""
    document(COMPARE)
    report = Path("comparison", "report.html")
    found = json.loads(Path("comparison", "results.json").read_text(encoding="utf-8"))
    cells = [cell for cell in found["cells"] if cell["method"] == "uniform"]
    if not report.exists() or not cells or "psnr" not in cells[0]["metrics"]:
        raise FailedError("there is no report of what worked")
    if not any(gap["method"] == "leaving" for gap in found["missing"]):
        raise FailedError("the row that is missing is not named")
    return "a report, without one row and one column"


def listed() -> str:
    """List the plugins twice: what was read is kept."""
    first, again = (clocked(("plugins", "list"))[1] for _ in range(2))
    if first >= FIRST or again >= AGAIN:
        raise FailedError(f"{first:.2f} CPU seconds of its own, then {again:.2f}")
    return f"{first:.2f} CPU seconds of its own, then {again:.2f}"


def examined() -> str:
    """Have the doctor name every package, with a remedy that helps."""
    write(Path("site"), [DAMAGED])
    found = document(("plugins", "doctor"), status=1)
    for package in (*PACKAGES, DAMAGED):
        own = [line for line in found if line["package"] == package.name]
        if not any(
            package.said in line["what"] and package.remedy in line["remedy"] for line in own
        ):
            raise FailedError(f"{package.name}: {own or 'not named'}")
    return f"all {len(PACKAGES) + 1} packages named with their remedies"


if __name__ == "__main__":
    sys.exit(main())
