"""What the doctor finds, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.text import Text


class Finding(NamedTuple):
    """Something that is wrong with installed plugins.

    Args:
        package: the distribution; "" for the environment.
        plugin: the hook, the entry point or the plugin as ``solvers mine``; a variable's name for the
            environment.
        what: what is wrong, in words.
        remedy: what to do about it.
    """

    package: str
    plugin: str
    what: str
    remedy: str


def finding_lines(findings: Sequence[Finding]) -> Iterator[Text]:
    """Yield the lines of each package: a finding with its hook or plugin, and below it the remedy."""
    package: str | None = None
    for found in sorted(findings, key=lambda f: f.package):
        if found.package != package:
            package = found.package
            yield Text(package or "environment", style="bold")
        where = f"{found.plugin}: " if found.plugin else ""
        yield Text(f"  {where}{found.what}")
        yield Text(f"    {found.remedy}", style="green")
