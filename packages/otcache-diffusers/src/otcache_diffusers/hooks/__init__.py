"""Drives a pipeline, a loop or a bare module by a step policy."""

from otcache_diffusers.hooks.companions import CompanionUse, companions_of
from otcache_diffusers.hooks.drive import Driven, denoisers_of, drive, unsupported
from otcache_diffusers.hooks.grid import sigma_grid, usable_grid
from otcache_diffusers.hooks.loop_states import LoopStates
from otcache_diffusers.hooks.packed import Packed
from otcache_diffusers.hooks.policy import RunInfo, StepPolicy
from otcache_diffusers.hooks.tree import combine, tensors

__all__ = [
    "CompanionUse",
    "Driven",
    "LoopStates",
    "Packed",
    "RunInfo",
    "StepPolicy",
    "combine",
    "companions_of",
    "denoisers_of",
    "drive",
    "sigma_grid",
    "tensors",
    "unsupported",
    "usable_grid",
]
