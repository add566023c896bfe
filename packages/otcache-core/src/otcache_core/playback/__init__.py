"""Follow a plan on any engine: a table holds the plan of each branch, and a player follows it."""

from otcache_core.playback.branch_plan import BranchPlan, OrderChoice
from otcache_core.playback.player import Arithmetic, KeptOutputs, Playback
from otcache_core.playback.table import PlaybackTable, playback_table

__all__ = [
    "Arithmetic",
    "BranchPlan",
    "KeptOutputs",
    "OrderChoice",
    "Playback",
    "PlaybackTable",
    "playback_table",
]
