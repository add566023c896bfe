"""Measure a diffusion pipeline once, plan its best cache schedule for any budget, and run it without leaving a trace."""

__version__ = "0.1.0"
