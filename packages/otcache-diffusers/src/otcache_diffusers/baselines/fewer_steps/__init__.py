"""Samplers that simply take fewer steps: what any cache has to beat."""

from otcache_diffusers.baselines.fewer_steps.baseline import SAMPLERS
from otcache_diffusers.baselines.fewer_steps.sampler import FewStepSampler

__all__ = ["SAMPLERS", "FewStepSampler"]
