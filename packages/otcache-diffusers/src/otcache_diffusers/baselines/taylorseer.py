"""TaylorSeer of diffusers: forecast modules' outputs by Taylor polynomials."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, final

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_diffusers.baselines.diffusers_caches import (
    calls_several_times,
    cannot_cache,
    contexts_of,
    enters_no_context,
    hooked,
)
from otcache_diffusers.compat import DIFFUSERS, cache_config

_CONFIG = "TaylorSeerCacheConfig"
#: Warm-up of the authors' FLUX code and of diffusers; the order that diffusers recommends.
_WARMUP, _ORDER = 3, 1
#: Forecast: attention and feed-forward of each block, and the joint last layer of Flux's single blocks.
_FORECAST = (
    r"(transformer_)?blocks\.\d+\.(attn\d?|ff|ff_context|ffn|img_mlp|txt_mlp)",
    r"single_transformer_blocks\.\d+\.proj_out",
)
#: Left out, since only that last layer reads them.
_LEFT_OUT = (r"single_transformer_blocks\.\d+\.(attn|proj_mlp|act_mlp)",)


@final
class TaylorSeer(Baseline):
    r"""Modules' outputs are forecast from the steps computed last.

    .. math:: y_t = \sum_{i=0}^{m} \frac{(t - k)^i}{i!} \Delta^i y_k, \qquad
        \Delta^i y_k = \frac{\Delta^{i-1} y_k - \Delta^{i-1} y_{k'}}{k - k'}

    with k, k' the two steps computed last. Forecast are the modules that the authors forecast on FLUX:
    attention and feed-forward of each block, of single blocks their joint output. (diffusers' default,
    attention alone, leaves 24 evaluations of 30 at interval 5.) Order m = 1, as diffusers recommends;
    order 2 is no better on the demo model. Factors are kept in the pipeline's own type: diffusers'
    default is bfloat16 whatever that is.

    For each budget the interval that computes so many steps: behind a warm-up of 3, the authors', from a
    third of the steps on; behind one of 1 below that, where 3 would eat the budget and make the
    intervals longer (RMSE of final states 0.3 against 1.0 at 6 of 30 steps). Far extrapolation is this
    rule's weakness: at 5 of 30 the demo's pictures are lost with any of its settings (1.2 and more).

    References:
        From reusing to forecasting: accelerating diffusion models with TaylorSeers (2025),
        https://arxiv.org/abs/2503.06923
    """

    source = f"{DIFFUSERS}, TaylorSeer of order {_ORDER} on attention and feed-forward"
    by_budget = True

    def supports(self, target: Any, request: SampleRequest) -> str:
        reason = cannot_cache(target, _CONFIG)
        if reason:
            return reason
        if not contexts_of(target, request):
            return enters_no_context(target)
        names = (name for name, _ in target.transformer.named_modules())
        if not any(re.fullmatch(pattern, name) for name in names for pattern in _FORECAST):
            kind = type(target.transformer).__name__
            return f"{kind} has no attention or feed-forward under the names that are forecast"
        return calls_several_times(target)

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        return [_setting(num_steps, budget) for budget in budgets]

    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> AbstractContextManager[None]:
        config = cache_config(_CONFIG)(
            cache_interval=setting.values["interval"],
            disable_cache_before_step=setting.values["warmup"],
            max_order=_ORDER,
            taylor_factors_dtype=target.transformer.dtype,
            cache_identifiers=list(_FORECAST),
            skip_predict_identifiers=list(_LEFT_OUT),
        )
        return hooked(target, config)


def _setting(n: int, budget: int) -> BaselineSetting:
    """The rule that computes nearest to the budget; then by warm-up; then the shortest interval."""
    preferred = 1 if 3 * budget < n else _WARMUP

    def cost(rule: TaylorSeerRule) -> tuple[int, int, int]:
        off = abs(len(rule.computed(n)) - budget)
        return off, abs(rule.warmup - preferred), rule.interval

    rules = [TaylorSeerRule(w, k) for w in range(1, _WARMUP + 1) for k in range(1, n + 1)]
    rule = min(rules, key=cost)
    values = {"warmup": rule.warmup, "interval": rule.interval}
    label = f"interval {rule.interval}, first {rule.warmup} kept"
    return BaselineSetting(label, values, n, rule.computed(n))


@dataclass(frozen=True)
class TaylorSeerRule:
    r"""Computed are the first w steps, and every k-th from step w + 1 on.

    .. math:: t < w \;\vee\; (t - w - 1) \bmod k = 0

    Args:
        warmup: w, ``disable_cache_before_step``, at least 1.
        interval: k, ``cache_interval``, at least 1.
    """

    warmup: int
    interval: int

    def computed(self, num_steps: int) -> tuple[int, ...]:
        """Computed steps of 0 .. N-1."""
        w, k = self.warmup, self.interval
        return tuple(t for t in range(num_steps) if t < w or (t - w - 1) % k == 0)
