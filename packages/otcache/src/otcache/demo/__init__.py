"""The demo: calibrate the shipped pipeline, and show otcache beside what one would use instead."""

from otcache.demo.run import DemoSettings, run_demo

__all__ = ["DemoSettings", "run_demo"]
