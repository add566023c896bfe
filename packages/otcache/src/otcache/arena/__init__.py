"""The arena: methods beside each other on one pipeline, each in a process of its own."""

from otcache.arena.job import Job
from otcache.arena.run import Settings, compare

__all__ = ["Job", "Settings", "compare"]
