"""Contracts and plain data of otcache; needs no tensor library."""

from typing import TYPE_CHECKING

from otcache_core.public_names import imported_on_use

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
    from otcache_core.plugins import Info, Registry, hookimpl
    from otcache_core.policy import Policy, Provenance
    from otcache_core.problem import KeptOut, Need, Result, ScheduleProblem, Solution
    from otcache_core.schedule import Schedule, Span
    from otcache_core.trajectory import Trajectory
    from otcache_core.transport import ScheduleTable

__version__ = "0.1.0"

__all__ = [
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

if not TYPE_CHECKING:  # a checker shall know misspelt names
    __getattr__, __dir__ = imported_on_use(
        globals(),
        {
            "Calibration": "otcache_core.calibration",
            "Demo": "otcache_core.models",
            "ExecutionError": "otcache_core.errors",
            "FileError": "otcache_core.errors",
            "Info": "otcache_core.plugins",
            "KeptOut": "otcache_core.problem",
            "MismatchError": "otcache_core.errors",
            "Need": "otcache_core.problem",
            "OtcacheError": "otcache_core.errors",
            "OtcacheNotice": "otcache_core.errors",
            "PluginError": "otcache_core.errors",
            "PluginWarning": "otcache_core.errors",
            "Policy": "otcache_core.policy",
            "Provenance": "otcache_core.policy",
            "Registry": "otcache_core.plugins",
            "Result": "otcache_core.problem",
            "Rung": "otcache_core.calibration",
            "Schedule": "otcache_core.schedule",
            "ScheduleError": "otcache_core.errors",
            "ScheduleProblem": "otcache_core.problem",
            "ScheduleTable": "otcache_core.transport",
            "Solution": "otcache_core.problem",
            "Span": "otcache_core.schedule",
            "Trajectory": "otcache_core.trajectory",
            "hookimpl": "otcache_core.plugins",
        },
    )
