"""Follow a plan on any engine: a policy is exported as a table (``table``), and ``player`` follows it."""

from otcache_core.playback.player import Arithmetic, KeptOutputs, Playback
from otcache_core.playback.table import BranchPlan, OrderChoice, PlaybackTable, playback_table

__all__ = [
    "Arithmetic",
    "BranchPlan",
    "KeptOutputs",
    "OrderChoice",
    "Playback",
    "PlaybackTable",
    "playback_table",
]
