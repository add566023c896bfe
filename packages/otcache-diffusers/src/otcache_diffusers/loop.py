"""The loop target, which lives in core."""

from otcache_core.loop import Loop, LoopObserver

__all__ = ["Loop", "LoopObserver"]
