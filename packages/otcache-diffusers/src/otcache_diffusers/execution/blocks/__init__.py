"""Passes over the block stacks of a denoiser, adding the residuals of computed steps instead."""

from otcache_diffusers.execution.blocks.lists import no_blocks
from otcache_diffusers.execution.blocks.policy import BlockPolicy

__all__ = ["BlockPolicy", "no_blocks"]
