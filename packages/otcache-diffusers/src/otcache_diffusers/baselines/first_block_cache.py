"""FirstBlockCache of diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, final

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_diffusers.baselines.diffusers_caches import (
    cannot_cache,
    cannot_skip_blocks,
    contexts_of,
    enters_no_context,
    geometric,
    hooked,
)
from otcache_diffusers.compat import DIFFUSERS, cache_config

_CONFIG = "FirstBlockCacheConfig"


@final
class FirstBlockCache(Baseline):
    r"""The first block runs at each step, and what it adds decides about the others.

    .. math:: \frac{\mathrm{mean} |r_t - r_k|}{\mathrm{mean} |r_k|} \le \theta

    skips all blocks but the first, r being what it adds to its input, at this step t and at the latest
    computed one k; what the others added at k is added again. The rule knows no warm-up and no longest
    skip, so nothing is widened but the threshold: published values are 0.05 .. 0.2, the ladder goes on
    to 1.5. However large it is, the first block of every step is paid for: on the demo model a ninth of
    the transformer, so that no run takes fewer than 4.4 evaluations of 30.

    References:
        ParaAttention, First Block Cache (2024), https://github.com/chengzeyi/ParaAttention; after
        TeaCache (2024), https://arxiv.org/abs/2411.19108
    """

    source = f"{DIFFUSERS}, FirstBlockCache (ParaAttention, after TeaCache)"
    adaptive = True

    def supports(self, target: Any, request: SampleRequest) -> str:
        reason = cannot_cache(target, _CONFIG) or cannot_skip_blocks(target)
        if reason or contexts_of(target, request):
            return reason
        return enters_no_context(target)

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        return [
            BaselineSetting(f"threshold={value:g}", {"threshold": value}, num_steps)
            for value in geometric(0.03, 1.5, 18)
        ]

    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> AbstractContextManager[None]:
        config = cache_config(_CONFIG)(threshold=setting.values["threshold"])
        return hooked(target, config)
