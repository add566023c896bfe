"""Drives a pipeline, a loop or a bare module by a step policy."""

from otcache_diffusers.driver.companions import CompanionUse, companions_of
from otcache_diffusers.driver.drive import Driven, denoisers_of, drive, unsupported
from otcache_diffusers.driver.grid import sigma_grid, usable_grid
from otcache_diffusers.driver.loop_states import LoopStates
from otcache_diffusers.driver.packed import Packed
from otcache_diffusers.driver.policy import RunInfo, StepPolicy
from otcache_diffusers.driver.tree import combine, tensors

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
