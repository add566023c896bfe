"""otcache: measure a diffusion pipeline once, plan its cache schedule for any budget, and run it."""

from otcache.attached import enabled
from otcache.attempts import Attempt, Done, Failed, attempt
from otcache.calibrate import calibrate
from otcache.converting import load_schedule, load_table
from otcache.estimating import Estimate, estimate
from otcache.planning import plan
from otcache.recipe import Recipe
from otcache.recording import record
from otcache.running import accelerate, load_policy
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
    __version__,
)
from otcache_core.calibration import Calibration
from otcache_core.contracts import Storage
from otcache_core.errors import OtcacheNotice
from otcache_core.keep import Keep
from otcache_core.loop import Loop, loop
from otcache_core.notices import notices_to
from otcache_core.policy import Policy

__all__ = [
    "Attempt",
    "Calibration",
    "Done",
    "Enabled",
    "Estimate",
    "ExecutionError",
    "Failed",
    "FileError",
    "Keep",
    "Loop",
    "MismatchError",
    "OtcacheError",
    "OtcacheNotice",
    "PluginError",
    "Policy",
    "Recipe",
    "Schedule",
    "ScheduleError",
    "ScheduleTable",
    "Storage",
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
