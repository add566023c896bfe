"""otcache: measure a diffusion pipeline once, plan its cache schedule for any budget, and run it."""

from typing import TYPE_CHECKING

from otcache_core import __version__, imported_on_use

if TYPE_CHECKING:
    from otcache.attempts import Attempt, Done, Failed, attempt
    from otcache.calibration.calibrate import calibrate
    from otcache.calibration.recipe import Recipe
    from otcache.calibration.record import record
    from otcache.estimating import Estimate, estimate
    from otcache.pipelines import load_demo
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
    "load_demo",
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
            "otcache.attempts": "Attempt Done Failed attempt",
            "otcache.calibration.calibrate": "calibrate",
            "otcache.calibration.recipe": "Recipe",
            "otcache.calibration.record": "record",
            "otcache.estimating": "Estimate estimate",
            "otcache.pipelines": "load_demo",
            "otcache.planning": "plan",
            "otcache.running": "accelerate enabled load_policy",
            "otcache.schedules": "load_schedule load_table",
            "otcache.serving": "Enabled enable",
            "otcache_core": "ExecutionError FileError MismatchError OtcacheError PluginError Schedule "
            "ScheduleError ScheduleTable",
            "otcache_core.calibration": "Calibration",
            "otcache_core.contracts": "CacheStorage",
            "otcache_core.errors": "OtcacheNotice",
            "otcache_core.loop": "Loop loop",
            "otcache_core.notices": "notices_to",
            "otcache_core.policy": "Policy",
            "otcache_core.storage.recordings": "RecordingStorage",
        },
    )
