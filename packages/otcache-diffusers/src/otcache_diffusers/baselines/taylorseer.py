"""TaylorSeer of diffusers: forecast modules' outputs by Taylor polynomials."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, final

from otcache_core.contracts import BaselineSetting, SampleRequest
from otcache_diffusers.baselines.diffusers_caches import DiffusersCache, no_context, several_calls
from otcache_diffusers.compat import DIFFUSERS

#: Warm-up of the authors' FLUX code and of diffusers; the order that diffusers recommends.
_WARMUP, _ORDER = 3, 1
#: Forecast: attention and feed-forward of each block, and the joint last layer of Flux's single blocks.
_FORECAST = (
    r"(transformer_)?blocks\.\d+\.(attn\d?|ff|ff_context|ffn|img_mlp|txt_mlp)",
    r"single_transformer_blocks\.\d+\.proj_out",
)
#: Skipped, since only that last layer reads them.
_SKIPPED = (r"single_transformer_blocks\.\d+\.(attn|proj_mlp|act_mlp)",)


@final
class TaylorSeer(DiffusersCache):
    r"""Forecast modules' outputs from the steps computed last.

    .. math:: y_t = \sum_{i=0}^{m} \frac{(t - k)^i}{i!} \Delta^i y_k, \qquad
        \Delta^i y_k = \frac{\Delta^{i-1} y_k - \Delta^{i-1} y_{k'}}{k - k'}

    with k, k' the two steps computed last. Forecast are the modules that the authors forecast on FLUX:
    attention and feed-forward of each block, of single blocks their joint output. (diffusers' default,
    attention alone, still costs 24 evaluations of 30 at interval 5.) Order m = 1, as diffusers
    recommends; order 2 is no better on the demo model. Factors are kept in the pipeline's own type:
    diffusers' default is bfloat16 whatever that is.

    For each budget the interval that computes so many steps: after a warm-up of 3, the authors', from a
    third of the steps on; after one of 1 below that, where 3 would use up the budget and make the
    intervals longer (RMSE of final states 0.3 against 1.0 at 6 of 30 steps). Far extrapolation is this
    rule's weakness: at 5 of 30 the demo's images are lost with any of its settings (1.2 and more).

    References:
        From reusing to forecasting: accelerating diffusion models with TaylorSeers (2025),
        https://arxiv.org/abs/2503.06923
    """

    source = f"{DIFFUSERS}, TaylorSeer of order {_ORDER} on attention and feed-forward"
    by_budget = True
    config = "TaylorSeerCacheConfig"

    def why_not(self, target: Any, request: SampleRequest) -> str:
        reason = no_context(target, request)
        names = (name for name, _ in target.transformer.named_modules())
        if not reason and not any(re.fullmatch(p, name) for name in names for p in _FORECAST):
            kind = type(target.transformer).__name__
            return f"{kind} has no attention or feed-forward under the names that are forecast"
        return reason or several_calls(target)

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        return [_setting(num_steps, budget) for budget in budgets]

    def arguments(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            "cache_interval": setting.values["interval"],
            "disable_cache_before_step": setting.values["warmup"],
            "max_order": _ORDER,
            "taylor_factors_dtype": target.transformer.dtype,
            "cache_identifiers": list(_FORECAST),
            "skip_predict_identifiers": list(_SKIPPED),
        }


def _setting(n: int, budget: int) -> BaselineSetting:
    """Return the rule that computes nearest to the budget; then by warm-up; then the shortest interval."""
    preferred = 1 if 3 * budget < n else _WARMUP

    def cost(rule: tuple[int, int]) -> tuple[int, int, int]:
        warmup, interval = rule
        return abs(len(_computed(n, *rule)) - budget), abs(warmup - preferred), interval

    rules = product(range(1, _WARMUP + 1), range(1, n + 1))
    warmup, interval = min(rules, key=cost)
    values = {"warmup": warmup, "interval": interval}
    label = f"interval {interval}, first {warmup} kept"
    return BaselineSetting(label, values, n, _computed(n, warmup, interval))


def _computed(n: int, warmup: int, interval: int) -> tuple[int, ...]:
    """Return the steps t that diffusers computes: t < w, and every k-th from w + 1 on."""
    return tuple(t for t in range(n) if t < warmup or (t - warmup - 1) % interval == 0)
