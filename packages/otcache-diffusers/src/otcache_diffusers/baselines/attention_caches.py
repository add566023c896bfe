"""Pyramid Attention Broadcast and FasterCache of diffusers: caches that reuse attention."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, ClassVar, final

from otcache_core.contracts import BaselineSetting, SampleRequest
from otcache_diffusers.baselines.diffusers_caches import DiffusersCache, contexts_of, is_guided
from otcache_diffusers.compat import DIFFUSERS, has_cached_attention

#: diffusers' default: how far FasterCache extrapolates attention from the two latest outputs.
_WEIGHT = 0.5


class AttentionCache(DiffusersCache):
    """A cache of spatial attention, computed at every k-th step inside a range of timesteps.

    Outside the range all steps compute it. Settings are in the order of the share of attention that is
    skipped.

    Attributes:
        ranges: of timesteps, as pairs (low, high).
    """

    ranges: ClassVar[tuple[tuple[int, int], ...]]

    @abstractmethod
    def bad_guidance(self, target: Any, request: SampleRequest) -> str:
        """Return "" if the request's guidance suits the rule, else the reason."""

    def why_not(self, target: Any, request: SampleRequest) -> str:
        kind = type(target)
        if not has_cached_attention(target.transformer):
            return f"{DIFFUSERS} knows none of the attention in {type(target.transformer).__name__}"
        reason = self.bad_guidance(target, request)
        if reason or hasattr(kind, "current_timestep"):
            return reason
        return f"{kind.__name__} has no current_timestep, and the rule holds in a range of them"

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        places = product(differing_intervals(num_steps), self.ranges)
        return [
            BaselineSetting(
                f"interval {k}, timesteps {low}..{high}",
                {"interval": k, "low": low, "high": high},
                num_steps,
            )
            for k, (low, high) in sorted(places, key=lambda place: (_skipped(*place), place))
        ]

    def arguments(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> dict[str, Any]:
        values = setting.values
        return {
            "spatial_attention_block_skip_range": values["interval"],
            "spatial_attention_timestep_skip_range": (values["low"], values["high"]),
            "current_timestep_callback": lambda: target.current_timestep,
        }


@final
class PyramidAttention(AttentionCache):
    """Reuse the attention of every k-th step inside a range of timesteps up to the next such step.

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
    config = "PyramidAttentionBroadcastConfig"
    ranges = ((100, 800), (-1, 1001))  # the authors' range, and everything

    def bad_guidance(self, target: Any, request: SampleRequest) -> str:
        if len(contexts_of(target, request)) > 1:
            return (
                f"{DIFFUSERS} keeps one cache for both branches of guidance, so that one would get the "
                "other's attention: it runs without guidance, or if one call takes both branches"
            )
        return ""


@final
class FasterCache(AttentionCache):
    r"""Extrapolate the attention of skipped steps from the two latest outputs.

    .. math:: a_t = a_k + w (a_k - a_{k'})

    in the authors' range of timesteps, and then in all but the first, which would find its cache empty;
    the authors' interval is 2, the ladder goes on. Everything but attention still runs at each step.

    The other half of the method, which omits guidance's second branch, takes one batch with both
    branches, of a transformer whose output is images or frames; this baseline does not offer it. With
    guidance by two calls not even the attention half can be run: one cache serves both calls.

    References:
        FasterCache: training-free video diffusion model acceleration with high quality (2024),
        https://arxiv.org/abs/2410.19355
    """

    source = f"{DIFFUSERS}, FasterCache, its attention part"
    config = "FasterCacheConfig"
    ranges = ((-1, 681), (-1, 950))

    def bad_guidance(self, target: Any, request: SampleRequest) -> str:
        if len(contexts_of(target, request)) > 1:
            return (
                f"{type(target).__name__} guides by two calls: FasterCache omits a branch only if both "
                f"are one batch, and {DIFFUSERS} keeps one cache of attention for both"
            )
        if is_guided(target, request):
            return "only the attention part of FasterCache is offered, which runs without guidance"
        return ""

    def arguments(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            **super().arguments(target, setting, measured),
            "attention_weight_callback": lambda module: _WEIGHT,
            "is_guidance_distilled": True,
        }


def _skipped(interval: int, span: tuple[int, int]) -> float:
    low, high = max(span[0], 0), min(span[1], 1000)
    return (1 - 1 / interval) * (high - low)


def differing_intervals(num_steps: int) -> list[int]:
    """Return intervals k = 2, 3, ..., each of which computes fewer of N steps than the one before.

    Every k-th of N steps is computed, ceil(N / k) in all.
    """
    counts = {k: -(-num_steps // k) for k in range(num_steps, 1, -1)}
    smallest = {count: k for k, count in counts.items()}
    return sorted(smallest.values())
