"""The demos: calibrate a shipped pipeline, and show otcache beside what one would use instead."""

from otcache.demo.run import DemoOutcome, run_demo
from otcache.demo.settings import DemoSettings

__all__ = ["DemoOutcome", "DemoSettings", "run_demo"]
