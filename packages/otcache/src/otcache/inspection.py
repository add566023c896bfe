"""What ``otcache inspect`` and ``otcache plugins list`` print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from otcache_core import Schedule
from otcache_core.policy import Policy

COMPUTED, SKIPPED = "█", "·"


def strip(schedule: Schedule) -> Text:
    """One character a step."""
    computed = set(schedule.computed)
    marks = (COMPUTED if i in computed else SKIPPED for i in range(schedule.num_steps))
    return Text("".join(marks), style="cyan")


def draw(policy: Policy, schedules: Sequence[Schedule]) -> Group:
    """Schedules as strips, then where the policy comes from."""
    table = Table(
        "budget",
        "speedup",
        f"computed {COMPUTED} and skipped {SKIPPED} steps",
        "forecaster",
        box=None,
    )
    for schedule in schedules:
        speedup = f"{schedule.ideal_speedup:.1f}x"
        table.add_row(str(schedule.budget), speedup, strip(schedule), schedule.forecaster)
    facts = Table(box=None, show_header=False)
    for name, value in policy.provenance.to_dict().items():
        if name == "grid" and value:
            value = f"{len(value)} values, {value[0]:.4g} .. {value[-1]:.4g}"
        facts.add_row(name, str(value))
    return Group(table, Text(), facts)


def plugin_table(rows: Sequence[dict[str, str]]) -> Table:
    """A line a plugin."""
    table = Table("kind", "name", "distribution", "summary", box=None)
    for row in rows:
        table.add_row(row["kind"], row["name"], row["distribution"], row["summary"])
    return table
