"""FasterCache of diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, final

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_diffusers.baselines.diffusers_caches.attention_ladder import attention_ladder
from otcache_diffusers.baselines.diffusers_caches.contexts import contexts_of, is_guided
from otcache_diffusers.baselines.diffusers_caches.hooked import hooked
from otcache_diffusers.baselines.diffusers_caches.reasons import (
    cannot_cache,
    has_no_attention,
    tells_no_timestep,
)
from otcache_diffusers.compat import DIFFUSERS, cache_config

_FASTER = "FasterCacheConfig"
#: The authors' range of timesteps, and all but the first one, which would find its cache empty.
_FASTER_RANGES = ((-1, 681), (-1, 950))
#: diffusers' default: how far attention is extrapolated from the two latest outputs.
_WEIGHT = 0.5


@final
class FasterCache(Baseline):
    r"""Attention of skipped steps is extrapolated from the two latest outputs.

    .. math:: a_t = a_k + w (a_k - a_{k'})

    in the authors' range of timesteps, and then in all but the first; the authors' interval is 2, the
    ladder goes on. Everything but attention still runs at each step.

    The other half of the method, which leaves out guidance's second branch, takes one batch with both
    branches, of a transformer whose output is pictures or frames; this baseline does not serve it. With
    guidance by two calls not even the attention half can be run: one cache serves both calls.

    References:
        FasterCache: training-free video diffusion model acceleration with high quality (2024),
        https://arxiv.org/abs/2410.19355
    """

    source = f"{DIFFUSERS}, FasterCache, its attention part"

    def supports(self, target: Any, request: SampleRequest) -> str:
        reason = cannot_cache(target, _FASTER) or has_no_attention(target)
        if reason:
            return reason
        if len(contexts_of(target, request)) > 1:
            return (
                f"{type(target).__name__} guides by two calls: FasterCache leaves out a branch only "
                f"where both are one batch, and {DIFFUSERS} keeps one cache of attention for both"
            )
        if is_guided(target, request):
            return "of FasterCache only the attention part is offered, which runs without guidance"
        return tells_no_timestep(target)

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        return attention_ladder(num_steps, _FASTER_RANGES)

    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> AbstractContextManager[None]:
        config = cache_config(_FASTER)(
            spatial_attention_block_skip_range=setting.values["interval"],
            spatial_attention_timestep_skip_range=(setting.values["low"], setting.values["high"]),
            attention_weight_callback=lambda module: _WEIGHT,
            current_timestep_callback=lambda: target.current_timestep,
            is_guidance_distilled=True,
        )
        return hooked(target, config)
