"""Pyramid Attention Broadcast and FasterCache of diffusers: reuse attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import product
from typing import Any, final

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_diffusers.baselines.diffusers_caches import (
    cannot_cache,
    contexts_of,
    differing_intervals,
    has_no_attention,
    hooked,
    is_guided,
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


def attention_ladder(num_steps: int, ranges: Sequence[tuple[int, int]]) -> list[BaselineSetting]:
    """Every k-th step inside a range of timesteps computes attention, all of them outside.

    Args:
        num_steps: N.
        ranges: (low, high) within 0 .. 1000.

    Returns:
        Settings with ``interval``, ``low`` and ``high``, by the share of the timesteps that is skipped.
    """
    places = product(differing_intervals(num_steps), ranges)
    ordered = sorted(places, key=lambda place: (_skipped(*place), place))
    return [
        BaselineSetting(
            f"interval {k}, timesteps {low}..{high}",
            {"interval": k, "low": low, "high": high},
            num_steps,
        )
        for k, (low, high) in ordered
    ]


def _skipped(interval: int, span: tuple[int, int]) -> float:
    low, high = max(span[0], 0), min(span[1], 1000)
    return (1 - 1 / interval) * (high - low)
