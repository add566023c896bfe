"""A sampling loop of the user's own; it lives in core, since it needs no tensors."""

from otcache_core.loop import Loop, LoopObserver

__all__ = ["Loop", "LoopObserver"]
