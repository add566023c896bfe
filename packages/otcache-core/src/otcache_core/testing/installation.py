"""Whether an installed package is found by otcache, with all that it offers."""

from __future__ import annotations

from collections.abc import Iterator

from otcache_core.plugins.census import Reading, read_points
from otcache_core.plugins.discovery import PluginSettings, found_entry_points, normalise

#: Seconds that its classes may take to import: they may import torch.
LIMIT = 60.0


def check_installed(distribution: str) -> None:
    """Assert that the hooks of an installed package are found, and that all they offer can be imported.

    A kit makes its plugin from the class, and sees neither a misspelt hook nor a target that is not there.
    The package is imported in a child process. ``otcache plugins doctor`` looks at the same, and at what
    the package requires.

    Args:
        distribution: by which the package is installed, as ``otcache-mine``.

    Raises:
        AssertionError: with all that is wrong.
    """
    name = normalise(distribution)
    points = [p for p in found_entry_points(PluginSettings(), True) if p.distribution == name]
    assert points, (
        f"{distribution} is not installed with an entry point of the group otcache: write one into its "
        "pyproject.toml, [project.entry-points.otcache], and install it anew, pip install -e FOLDER"
    )
    readings = read_points(points, targets=True, limit=LIMIT, cached=False)
    wrong = [problem for reading in readings for problem in _problems(reading)]
    assert not wrong, (
        f"of {distribution}: {'; '.join(wrong)} (otcache plugins doctor says what to do)"
    )


def _problems(reading: Reading) -> Iterator[str]:
    """Yield what is wrong, but for how long the import takes, which differs from machine to machine."""
    for found in reading.findings:
        if found.kind != "slow":
            yield ": ".join(filter(None, (found.where, " ".join(found.what.split()))))
    if not (reading.findings or reading.offers):
        yield f"{reading.module} offers nothing: mark its hooks with @hookimpl"
    if reading.printed.strip():
        yield f"it prints when it is imported: {' '.join(reading.printed.split())}"
    for offer in reading.offers:
        for needed in offer.info().missing():
            yield f"{offer.kind} {offer.name} needs {needed}, which is not installed"
