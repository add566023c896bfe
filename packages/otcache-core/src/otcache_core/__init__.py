"""Contracts and plain data of otcache; needs no tensor library."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otcache_core.calibration import Calibration, Rung
    from otcache_core.errors import (
        ExecutionError,
        FileError,
        MismatchError,
        OtcacheError,
        OtcacheNotice,
        PluginError,
        PluginWarning,
        ScheduleError,
    )
    from otcache_core.models import Demo
    from otcache_core.playback import Arithmetic, Playback, PlaybackTable
    from otcache_core.plugins import Info, Registry, hookimpl
    from otcache_core.policy import Policy, Provenance
    from otcache_core.problem import KeptOut, Need, Result, ScheduleProblem, Solution
    from otcache_core.schedule import Schedule, Span
    from otcache_core.trajectory import Trajectory
    from otcache_core.transport import ScheduleTable

__version__ = "0.1.0"

__all__ = [
    "Arithmetic",
    "Calibration",
    "Demo",
    "ExecutionError",
    "FileError",
    "Info",
    "KeptOut",
    "MismatchError",
    "Need",
    "OtcacheError",
    "OtcacheNotice",
    "Playback",
    "PlaybackTable",
    "PluginError",
    "PluginWarning",
    "Policy",
    "Provenance",
    "Registry",
    "Result",
    "Rung",
    "Schedule",
    "ScheduleError",
    "ScheduleProblem",
    "ScheduleTable",
    "Solution",
    "Span",
    "Trajectory",
    "__version__",
    "hookimpl",
]


def imported_on_use(
    namespace: dict[str, Any], names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__``, which import a public name on first use (PEP 562).

    Args:
        namespace: the package's ``globals()``, which keeps what was imported.
        names: the public names that each module defines, with spaces between them.
    """
    defined_in = {name: module for module, text in names.items() for name in text.split()}

    def get(name: str) -> Any:
        if name not in defined_in:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        value = namespace[name] = getattr(import_module(defined_in[name]), name)
        return value

    return get, lambda: sorted({*namespace, *defined_in})


if not TYPE_CHECKING:  # a checker shall know misspelt names
    __getattr__, __dir__ = imported_on_use(
        globals(),
        {
            "otcache_core.calibration": "Calibration Rung",
            "otcache_core.errors": "ExecutionError FileError MismatchError OtcacheError OtcacheNotice "
            "PluginError PluginWarning ScheduleError",
            "otcache_core.models": "Demo",
            "otcache_core.plugins": "Info Registry hookimpl",
            "otcache_core.playback": "Arithmetic Playback PlaybackTable",
            "otcache_core.policy": "Policy Provenance",
            "otcache_core.problem": "KeptOut Need Result ScheduleProblem Solution",
            "otcache_core.schedule": "Schedule Span",
            "otcache_core.trajectory": "Trajectory",
            "otcache_core.transport": "ScheduleTable",
        },
    )
