"""A demo's outcome as files and on the terminal: report, videos, tables, and a verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Group

from otcache.demo.preset import POLICY, DemoOutcome
from otcache.media import writers
from otcache.progress import Stages
from otcache.report import write_report
from otcache.report.analysis import PairedComparison, headlines, level, paired_comparisons
from otcache.report.results import FULL, OURS, Results, scale_of
from otcache.report.terminal import paired_table, rich_table
from otcache_core import FileError
from otcache_core.plugins import Registry, installed

#: Prompts shown, budgets shown of each from the smallest on, and white pixels between videos in a row.
PROMPTS, BUDGETS, GAP = 4, 2, 2
_WRITTEN = re.compile(r"\d\d-.+-(full|B\d+-full-otcache-.+)")
Floats = NDArray[np.floating]


def write(outcome: DemoOutcome, directory: Path, stages: Stages) -> list[Path]:
    """Write the report, and a folder ``videos`` if the pipeline makes videos.

    Args:
        outcome: of the demo.
        directory: of the demo.
        stages: show how far it is.

    Returns:
        All files of the demo, its policy among them.

    Raises:
        FileError: if a file cannot be written.
    """
    written = write_report(outcome.results, outcome.images, directory, stages=stages)
    written.append(directory / POLICY)
    if outcome.results.frames_per_second:
        with stages.stage("writing videos"):
            written += write_videos(outcome, directory / "videos", installed())
    return written


def write_videos(outcome: DemoOutcome, folder: Path, registry: Registry) -> list[Path]:
    """Write videos by every installed writer; those of an earlier demo in the folder are removed.

    Of a few prompts the full run, ``01-a-red-circle-full.mp4``, and at the smallest budgets rows that
    are named from left to right, ``01-a-red-circle-B5-full-otcache-unipc.mp4``: the full run, otcache,
    and the other method of least RMSE.

    Args:
        outcome: of a demo whose pipeline makes videos.
        folder: made if missing.
        registry: where the writers come from.

    Raises:
        FileError: if the folder or a file cannot be written.
    """
    rate, known = outcome.results.frames_per_second, writers(registry)
    _prepare(folder, tuple(known))
    written = []
    for name, video in _videos(outcome).items():
        for suffix, writer in known.items():
            path = folder / f"{name}{suffix}"
            writer.write(path, np.clip(video, 0, 1), rate)
            written.append(path)
    return written


def _videos(outcome: DemoOutcome) -> dict[str, Floats]:
    results, stacks = outcome.results, outcome.images
    full = stacks[FULL, results.num_steps]
    first = {text: i for i, (text, _, _) in reversed(list(enumerate(results.labels)))}
    shown = sorted(first.items(), key=lambda entry: entry[1])[:PROMPTS]
    videos: dict[str, Floats] = {}
    for place, (text, i) in enumerate(shown, 1):
        name = f"{place:02d}-{_slug(text)}"
        videos[f"{name}-full"] = full[i]
        for headline in headlines(results)[:BUDGETS]:
            b, other = headline.budget, headline.baseline
            parts = (full[i], stacks[OURS, b][i], stacks[other, b][i])
            videos[f"{name}-B{b}-full-{OURS}-{_slug(other)}"] = row(parts)
    return videos


def row(videos: tuple[Floats, ...]) -> Floats:
    """Return videos of one shape (frames, height, width, 3) beside each other, white between them."""
    gap = np.ones((*videos[0].shape[:2], GAP, 3), videos[0].dtype)
    parts = [part for video in videos for part in (gap, video)][1:]
    return np.concatenate(parts, axis=2)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].rstrip("-")


def _prepare(folder: Path, suffixes: tuple[str, ...]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.suffix in suffixes and _WRITTEN.fullmatch(path.stem):
                path.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{folder}: cannot be made a folder of videos: {reason}.") from error


def tables(outcome: DemoOutcome) -> Group:
    """Return the tables, metrics over time in one of their own, and the verdict."""
    results, temporal = outcome.results, outcome.temporal
    frames = [name for name in results.metrics if name not in temporal]
    parts = [rich_table(only(results, frames))]
    if temporal:
        parts.append(rich_table(only(results, temporal), costs=False))
    return Group(*parts, paired_table(results), verdict(results, temporal))


def only(results: Results, metrics: Sequence[str]) -> Results:
    """Return the same results with these metrics alone."""
    cells = (
        replace(cell, metrics={n: v for n, v in cell.metrics.items() if n in metrics})
        for cell in results.cells
    )
    return replace(results, cells=tuple(cells))


def verdict(results: Results, temporal: Sequence[str] = ()) -> str:
    r"""Say how far otcache is from the full run beside the best other method of each budget.

    The figure is

    .. math:: \Bigl( \prod_B \frac{\mathrm{RMSE}(\text{otcache}, B)}
              {\min_m \mathrm{RMSE}(m, B)} \Bigr)^{1 / \#B},

    m the other methods. A metric over time is called no worse at a budget if the paired 95 % interval of
    its difference from the method that is best in it does not lie on the worse side of 0.

    Args:
        results: of the demo.
        temporal: names of the metrics that look at videos over time.
    """
    ratios = headlines(results)
    parts = []
    if ratios:
        mean = math.exp(sum(math.log(h.ratio.mean) for h in ratios) / len(ratios))
        each = ", ".join(f"{h.ratio.mean:.2f} at B = {h.budget} ({h.baseline})" for h in ratios)
        parts.append(f"otcache's RMSE is {mean:.2f} of the best other method's: {each}.")
    if temporal:
        said = "; ".join(_over_time(results, metric) for metric in temporal)
        parts.append(f"Over time, beside the best other method in each metric: {said}.")
    return " ".join(parts)


def _over_time(results: Results, metric: str) -> str:
    best = _best(results, metric)
    worse = [pair.budget for pair in best if pair.verdict == "worse"]
    better = [pair.budget for pair in best if pair.verdict == "better"]
    label = scale_of(results, metric).label
    if worse:
        return f"{label} is worse at B = {', '.join(map(str, worse))}"
    if len(better) == len(best):
        return f"{label} is better at every budget"
    return f"{label} is better or within the 95 % interval at every budget"


def _best(results: Results, metric: str) -> list[PairedComparison]:
    """Return otcache beside the best other method in this metric, one per budget."""

    def badness(pair: PairedComparison) -> float:
        cell = results.cell(pair.baseline, pair.budget)
        value = level(results, cell, metric) if cell else None
        return math.inf if value is None else scale_of(results, metric).badness(value)

    best: dict[int, PairedComparison] = {}
    for pair in paired_comparisons(results, metric):
        held = best.get(pair.budget)
        if held is None or badness(pair) < badness(held):
            best[pair.budget] = pair
    return list(best.values())
