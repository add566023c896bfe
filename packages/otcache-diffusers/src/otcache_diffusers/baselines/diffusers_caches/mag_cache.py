"""MagCache of diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, final

import numpy as np

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_diffusers.baselines.diffusers_caches.contexts import contexts_of
from otcache_diffusers.baselines.diffusers_caches.hooked import hooked
from otcache_diffusers.baselines.diffusers_caches.mag_cache_ratios import magnitude_ratios
from otcache_diffusers.baselines.diffusers_caches.mag_cache_rule import MagCacheRule
from otcache_diffusers.baselines.diffusers_caches.reasons import (
    calls_several_times,
    cannot_cache,
    cannot_skip_blocks,
    enters_no_context,
)
from otcache_diffusers.compat import DIFFUSERS, cache_config

_CONFIG = "MagCacheConfig"
#: The authors' setting for FLUX: the first tenth of the steps computed, five skipped in a row at most.
_RETENTION, _MAX_SKIP = 0.1, 5
_THRESHOLDS = tuple(float(f"{value:.4g}") for value in np.geomspace(1e-4, 1e2, 600))


@final
class MagCache(Baseline):
    """Skips all blocks while the magnitudes of what they add are foreseen to stay near.

    The rule is :class:`~.mag_cache_rule.MagCacheRule` on ratios calibrated on full runs. It looks at no
    input, so the threshold of each budget, and the steps it computes, are known beforehand. Settings are
    the authors' for FLUX (retention 0.1, at most 5 skipped in a row) from a third of the steps on.
    Below that retained steps and cap would eat the budget or make it out of reach: only the first step
    is retained and the cap is taken away, which on the demo model is better at every such budget (RMSE
    of final states 0.07 against 0.16 at 5 of 30 steps, 0.05 against 0.10 at 6).

    Each branch of guidance keeps a state of its own, on one list of ratios: with two branches the first
    one's (``cond``), as diffusers' guide says; both are kept in what is measured.

    References:
        MagCache: fast video generation with magnitude-aware cache (2025),
        https://arxiv.org/abs/2506.09045; settings: https://github.com/Zehong-Ma/MagCache
    """

    source = f"{DIFFUSERS}, MagCache with its own calibration"
    by_budget = True

    def supports(self, target: Any, request: SampleRequest) -> str:
        reason = cannot_cache(target, _CONFIG) or cannot_skip_blocks(target)
        if reason:
            return reason
        if not contexts_of(target, request):
            return enters_no_context(target)
        return calls_several_times(target)

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        branches = magnitude_ratios(target, request)
        first = next(iter(branches.values()))
        price = request.num_steps * len(request.prompts)
        return {"ratios": first, "branches": branches, "nfe": price}

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        return [_setting(num_steps, budget, measured["ratios"]) for budget in budgets]

    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> AbstractContextManager[None]:
        config = cache_config(_CONFIG)(
            threshold=setting.values["threshold"],
            max_skip_steps=setting.values["max_skip"],
            retention_ratio=setting.values["warmup"] / setting.num_steps,
            num_inference_steps=setting.num_steps,
            mag_ratios=list(measured["ratios"]),
        )
        return hooked(target, config)


def _setting(n: int, budget: int, ratios: Sequence[float]) -> BaselineSetting:
    """The threshold in the middle of those that compute nearest to the budget."""
    tight = 3 * budget < n
    warmup, max_skip = (1, n) if tight else (max(1, round(_RETENTION * n)), _MAX_SKIP)
    rules = [MagCacheRule(threshold, max_skip, warmup) for threshold in _THRESHOLDS]
    off = [abs(len(rule.computed(ratios)) - budget) for rule in rules]
    nearest = [rule for rule, distance in zip(rules, off, strict=True) if distance == min(off)]
    rule = nearest[len(nearest) // 2]
    values = {"threshold": rule.threshold, "max_skip": max_skip, "warmup": warmup}
    label = f"threshold={rule.threshold:g}, at most {max_skip} in a row, first {warmup} kept"
    return BaselineSetting(label, values, n, rule.computed(ratios))
