"""A demo's outcome as files, and on the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Group

from otcache.demo.clips import write_clips
from otcache.demo.run import DemoOutcome
from otcache.demo.verdict import verdict
from otcache.progress import Stages
from otcache.report import write_report
from otcache.report.analysis import duel_table
from otcache.report.results import Results
from otcache.report.tables import rich_table
from otcache_core.plugins import Registry, installed


def write(
    outcome: DemoOutcome,
    directory: Path,
    stages: Stages | None = None,
    registry: Registry | None = None,
) -> list[Path]:
    """Write the report, the policy, and a folder ``clips`` where the pipeline makes videos.

    Args:
        outcome: of the demo.
        directory: made if missing.
        stages: show how far it is.
        registry: where writers of videos come from; None: the installed plugins.

    Raises:
        FileError: if a file cannot be written.
    """
    stages = stages or Stages(show=False)
    written = write_report(outcome.results, outcome.pictures, directory, stages=stages)
    policy = directory / "policy.otcache"
    outcome.policy.save(policy)
    written.append(policy)
    if outcome.results.frames_per_second:
        with stages.stage("writing videos"):
            written += write_clips(outcome, directory / "clips", registry or installed())
    return written


def tables(outcome: DemoOutcome) -> Group:
    """Return the tables, measures over time in one of their own, and what they say."""
    results, temporal = outcome.results, outcome.temporal
    frames = [name for name in results.metrics if name not in temporal]
    parts = [rich_table(only(results, frames))]
    if temporal:
        parts.append(rich_table(only(results, temporal), costs=False))
    return Group(*parts, duel_table(results), verdict(results, temporal))


def only(results: Results, metrics: tuple[str, ...] | list[str]) -> Results:
    """The same results with these metrics alone."""
    cells = (
        replace(cell, metrics={n: v for n, v in cell.metrics.items() if n in metrics})
        for cell in results.cells
    )
    return replace(results, cells=tuple(cells))
