"""Schedule solvers and cost models of otcache."""

__version__ = "0.1.0"
