"""Where the processes of a generation or a comparison run: on this machine, or on an engine by its name.

A runner is an entry point of the group ``otcache.runners``: called with the number of workers, it returns a
context whose value starts them (:data:`otcache.processes.Start`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import EntryPoint, entry_points

from otcache.processes import Start, WorkerProcess
from otcache_core import OtcacheError, PluginError
from otcache_core.plugins.info import reason_of

GROUP, LOCAL = "otcache.runners", "local"
#: Distribution of a runner that may be missing.
EXTRAS = {"ray": "otcache[ray]"}


def open_runner(name: str, workers: int) -> AbstractContextManager[Start]:
    """Return a context whose value starts workers.

    Args:
        name: ``local``, or that of an installed runner.
        workers: at most so many run at a time.

    Raises:
        OtcacheError: if no runner has the name.
        PluginError: if it cannot be opened.
    """
    if name == LOCAL:
        return nullcontext(WorkerProcess)
    point = _find(name)
    try:
        opened: AbstractContextManager[Start] = point.load()(workers)
    except OtcacheError:
        raise
    except Exception as error:
        raise PluginError(f"runner {name!r} cannot be opened: {reason_of(error)}") from error
    return opened


def _find(name: str) -> EntryPoint:
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name in points:
        return points[name]
    if name in EXTRAS:
        raise OtcacheError(
            f"--runner {name} needs what is not installed: pip install '{EXTRAS[name]}'."
        )
    known = ", ".join([LOCAL, *sorted({*points, *EXTRAS})])
    raise OtcacheError(f"no runner is called {name!r}. Known: {known}.")
