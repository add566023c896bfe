"""otcache: measure a diffusion pipeline once, plan its cache schedule for any budget, and run it."""

from typing import TYPE_CHECKING

from otcache_core import __version__
from otcache_core.public_names import imported_on_use

if TYPE_CHECKING:
    from otcache.attempts import Attempt, Done, Failed, attempt
    from otcache.calibration.calibrate import calibrate
    from otcache.calibration.recipe import Recipe
    from otcache.calibration.record import record
    from otcache.estimating import Estimate, estimate
    from otcache.planning import plan
    from otcache.running import accelerate, enabled, load_policy
    from otcache.schedules import load_schedule, load_table
    from otcache.serving import Enabled, enable
    from otcache_core import (
        ExecutionError,
        FileError,
        MismatchError,
        OtcacheError,
        PluginError,
        Schedule,
        ScheduleError,
        ScheduleTable,
    )
    from otcache_core.calibration import Calibration
    from otcache_core.contracts import CacheStorage
    from otcache_core.errors import OtcacheNotice
    from otcache_core.loop import Loop, loop
    from otcache_core.notices import notices_to
    from otcache_core.policy import Policy
    from otcache_core.storage.recordings import RecordingStorage

__all__ = [
    "Attempt",
    "CacheStorage",
    "Calibration",
    "Done",
    "Enabled",
    "Estimate",
    "ExecutionError",
    "Failed",
    "FileError",
    "Loop",
    "MismatchError",
    "OtcacheError",
    "OtcacheNotice",
    "PluginError",
    "Policy",
    "Recipe",
    "RecordingStorage",
    "Schedule",
    "ScheduleError",
    "ScheduleTable",
    "__version__",
    "accelerate",
    "attempt",
    "calibrate",
    "enable",
    "enabled",
    "estimate",
    "load_policy",
    "load_schedule",
    "load_table",
    "loop",
    "notices_to",
    "plan",
    "record",
]

if not TYPE_CHECKING:  # a checker shall know misspelt names
    __getattr__, __dir__ = imported_on_use(
        globals(),
        {
            "Attempt": "otcache.attempts",
            "Calibration": "otcache_core.calibration",
            "Done": "otcache.attempts",
            "Enabled": "otcache.serving",
            "Estimate": "otcache.estimating",
            "ExecutionError": "otcache_core",
            "Failed": "otcache.attempts",
            "FileError": "otcache_core",
            "RecordingStorage": "otcache_core.storage.recordings",
            "Loop": "otcache_core.loop",
            "MismatchError": "otcache_core",
            "OtcacheError": "otcache_core",
            "OtcacheNotice": "otcache_core.errors",
            "PluginError": "otcache_core",
            "Policy": "otcache_core.policy",
            "Recipe": "otcache.calibration.recipe",
            "Schedule": "otcache_core",
            "ScheduleError": "otcache_core",
            "ScheduleTable": "otcache_core",
            "CacheStorage": "otcache_core.contracts",
            "accelerate": "otcache.running",
            "attempt": "otcache.attempts",
            "calibrate": "otcache.calibration.calibrate",
            "enable": "otcache.serving",
            "enabled": "otcache.running",
            "estimate": "otcache.estimating",
            "load_policy": "otcache.running",
            "load_schedule": "otcache.schedules",
            "load_table": "otcache.schedules",
            "loop": "otcache_core.loop",
            "notices_to": "otcache_core.notices",
            "plan": "otcache.planning",
            "record": "otcache.calibration.record",
        },
    )
