"""Pyramid Attention Broadcast of diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, final

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_diffusers.baselines.diffusers_caches.attention_ladder import attention_ladder
from otcache_diffusers.baselines.diffusers_caches.contexts import contexts_of
from otcache_diffusers.baselines.diffusers_caches.hooked import hooked
from otcache_diffusers.baselines.diffusers_caches.reasons import (
    cannot_cache,
    has_no_attention,
    tells_no_timestep,
)
from otcache_diffusers.compat import DIFFUSERS, cache_config

_PYRAMID = "PyramidAttentionBroadcastConfig"
#: The authors' range of timesteps, and all of them.
_PYRAMID_RANGES = ((100, 800), (-1, 1001))


@final
class PyramidAttention(Baseline):
    """Attention of every k-th step inside a range of timesteps is used for the steps up to the next.

    Spatial attention only, which is the one that image models have, in the authors' range of timesteps
    and then in all. Everything but attention still runs at each step, so that few evaluations are
    saved: on the demo model attention is a quarter of the transformer.

    Guidance by two calls cannot be run: diffusers keeps one cache a module for all calls of a step, and
    counts calls, so that at even intervals the second branch always gets the first one's attention, and
    at odd ones each gets the other's in turn. (On the demo model, interval 2: RMSE of final states
    0.42; with a cache for each branch it would be 0.07, and 0.24 without any guidance.)

    References:
        Real-time video generation with pyramid attention broadcast (2024),
        https://arxiv.org/abs/2408.12588
    """

    source = f"{DIFFUSERS}, Pyramid Attention Broadcast"

    def supports(self, target: Any, request: SampleRequest) -> str:
        reason = cannot_cache(target, _PYRAMID) or has_no_attention(target)
        if reason:
            return reason
        if len(contexts_of(target, request)) > 1:
            return (
                f"{DIFFUSERS} keeps one cache for both branches of guidance, so that one would get the "
                "other's attention: it runs without guidance, or where one call takes both branches"
            )
        return tells_no_timestep(target)

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        return attention_ladder(num_steps, _PYRAMID_RANGES)

    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> AbstractContextManager[None]:
        config = cache_config(_PYRAMID)(
            spatial_attention_block_skip_range=setting.values["interval"],
            spatial_attention_timestep_skip_range=(setting.values["low"], setting.values["high"]),
            current_timestep_callback=lambda: target.current_timestep,
        )
        return hooked(target, config)
