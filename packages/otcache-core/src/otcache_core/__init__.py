"""Contracts and plain data of otcache; needs no tensor library."""

from otcache_core.errors import (
    ExecutionError,
    FileError,
    MismatchError,
    OtcacheError,
    PluginError,
    ScheduleError,
)
from otcache_core.problem import Result, ScheduleProblem, Solution
from otcache_core.schedule import Schedule, Span
from otcache_core.trajectory import Trajectory

__version__ = "0.1.0"

__all__ = [
    "ExecutionError",
    "FileError",
    "MismatchError",
    "OtcacheError",
    "PluginError",
    "Result",
    "Schedule",
    "ScheduleError",
    "ScheduleProblem",
    "Solution",
    "Span",
    "Trajectory",
    "__version__",
]
