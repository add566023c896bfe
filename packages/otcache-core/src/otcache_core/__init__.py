"""Contracts and plain data of otcache; needs no tensor library."""

from otcache_core.calibration import Calibration, Rung
from otcache_core.demo import Demo
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
from otcache_core.plugins import Info, Registry, hookimpl
from otcache_core.policy import Policy, Provenance
from otcache_core.problem import KeptOut, Need, Result, ScheduleProblem, Solution
from otcache_core.schedule import Schedule, Span
from otcache_core.tables import ScheduleTable
from otcache_core.trajectory import Trajectory

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
