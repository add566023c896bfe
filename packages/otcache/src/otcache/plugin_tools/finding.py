"""What the doctor finds."""

from __future__ import annotations

from typing import NamedTuple


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
