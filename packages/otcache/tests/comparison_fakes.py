"""A comparison that was never run: jobs, finished runs, and a worker that does as its method's name says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from otcache.comparison.folder import SOLUTION, Assignment, Folder, Run
from otcache.comparison.job import Job
from otcache.comparison.timing import Pair
from otcache.report.results import FULL, Missing

N = 8
#: A full run of a second, more or less, beside runs that take 0.3.
PAIRS = (Pair(1.2, 0.4), Pair(0.9, 0.3), Pair(1.0, 0.2))
SAMPLES = (("a red circle", 1000, "shape"), ("the digit 7", 1000, "glyph,digit"))


def job(**changes: object) -> Job:
    facts: dict[str, object] = {
        "title": "invented",
        "pipeline": "nowhere:at_all",
        "num_steps": N,
        "budgets": (2, 4),
        "samples": SAMPLES,
        "calibration": ("a blue star",),
    }
    return Job(**{**facts, **changes})  # type: ignore[arg-type]  # the tests name wrong ones too


def run(label: str, nfe: float = 2.0, num_steps: int = N) -> Run:
    return Run(label, num_steps, (0, 3), nfe, 1e6 * nfe, 4096, PAIRS)


def images(error: float) -> np.ndarray:
    """Grey, wrong by as much."""
    return np.full((len(SAMPLES), 4, 4, 3), 0.5 + error, dtype=np.float32)


def videos(error: float) -> np.ndarray:
    """Two frames of the same."""
    return np.stack([images(error)] * 2, axis=1)


def filmed(path: Path, **changes: object) -> Folder:
    """Return the full runs of a pipeline that makes videos, and a method's."""
    folder = Folder(path)
    folder.begin(job(**changes), overwrite=False)
    folder.of(FULL).keep_run(run(FULL, N), videos(0.0), None)
    folder.of(FULL).keep_run(run(SOLUTION, 500, 500), videos(0.1), None)
    good = folder.of("good")
    good.keep_assignment(Assignment("somebody 1.0", 12, ((2, "B = 2"),)))
    good.keep_run(run("B = 2"), videos(0.2), None)
    return folder


def finished(path: Path, asked: Job | None = None) -> Folder:
    """Return the full runs, a method that ran, one that lost a budget, and one that never could."""
    folder = Folder(path)
    folder.begin(asked or job(), overwrite=False)
    states = np.zeros((len(SAMPLES), 3), dtype=np.float32)
    folder.of(FULL).keep_run(run(FULL, N), images(0.0), states)
    folder.of(FULL).keep_run(run(SOLUTION, 500, 500), images(0.1), states)
    good = folder.of("good")
    good.keep_assignment(Assignment("somebody 1.0", 12, ((2, "B = 2"), (4, "B = 4"))))
    good.keep_run(run("B = 2"), images(0.2), states + 1)
    good.keep_run(run("B = 4", 4.0), images(0.0), states)
    partly = folder.of("partly")
    gap = Missing("partly", 2, "the nearest setting takes 4 evaluations")
    partly.keep_assignment(Assignment("else 2.0", 0, ((4, "knob=1"),), (gap,)))
    partly.keep_failure("knob=1", "took longer than 5 s")
    folder.of("never").keep_failure("", "it is made for U-Nets")
    return folder


#: A worker without torch: what it does is in the method's name.
WORKER = """
import json, os, sys
sys.path.insert(0, {tests!r})
from comparison_fakes import images, run
from otcache.comparison.folder import Folder, Assignment
method = sys.argv[2]
part = Folder(sys.argv[1] and __import__("pathlib").Path(sys.argv[1])).of(method)
if method == "noise":
    print("a library that prints before there is a channel", flush=True)
    print(json.dumps(["no", "event"]), flush=True)
if method == "leaves":
    pipe = os.open(os.path.join(os.path.dirname(sys.argv[1]), "pipe"), os.O_WRONLY)
    os.write(pipe, b"here")
    words = [sys.executable, "-c", "import threading; threading.Event().wait(60)"]
    __import__("subprocess").Popen(words, stdin=-3, stdout=-3, stderr=-3, pass_fds=[pipe])
if method == "fork":
    __import__("subprocess").Popen([sys.executable, "-c", "input()"], stderr=-3)
say = lambda event, **facts: print(json.dumps(dict(event=event, **facts)), flush=True)
if method == "absent":
    say("absent", reason="made for U-Nets"); sys.exit()
if method == "early":
    sys.exit("no such module")
labels = ["B = 2", "B = 4"]
part.keep_assignment(Assignment("fake 1.0", 0, ((2, labels[0]), (4, labels[1]))))
say("assigned", labels=labels)
for label in labels:
    if method == "again":
        say("begin", what=label); say("failed", reason="as before"); sys.exit(1)
    if part.run(label) is not None or label in part.failures():
        continue
    say("begin", what=label)
    if method == "crash" and label == "B = 2":
        print("IndexError: out of range", file=sys.stderr); sys.exit(1)
    if method == "quits" and label == "B = 2":
        sys.exit(0)
    if method == "failed" and label == "B = 2":
        say("failed", reason="IndexError: out of range")
        print("good bye", file=sys.stderr); sys.exit(1)
    if method == "killed" and label == "B = 4":
        os.kill(os.getpid(), 9)
    if method == "killed-once" and not (part.path / "died").exists():
        (part.path / "died").touch(); os.kill(os.getpid(), 9)
    if method == "hang" and label == "B = 2":
        __import__("threading").Event().wait()
    part.keep_run(run(label), images(0.1), None)
    say("end")
if method == "fork":
    os._exit(0)
say("done")
"""


def worker(tmp_path: Path) -> tuple[str, ...]:
    """Return the command of that worker."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=str(Path(__file__).parent)), encoding="utf-8")
    return sys.executable, str(script)
