"""FirstBlockCache of diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from otcache_core.contracts import BaselineSetting, SampleRequest
from otcache_diffusers.baselines.diffusers_caches import (
    DiffusersCache,
    cannot_skip_blocks,
    no_context,
    threshold_ladder,
)
from otcache_diffusers.compat import DIFFUSERS


@final
class FirstBlockCache(DiffusersCache):
    r"""Run the first block at each step, and let what it adds decide about the others.

    .. math:: \frac{\mathrm{mean} |r_t - r_k|}{\mathrm{mean} |r_k|} \le \theta

    skips all blocks but the first, r being what it adds to its input, at this step t and at the latest
    computed one k; what the others added at k is added again. The rule has no warm-up and no longest
    skip, so the threshold alone is varied: published values are 0.05 .. 0.2, the ladder goes on to 1.5.
    However large it is, the first block of every step is computed: on the demo model a ninth of the
    transformer, so that no run takes fewer than 4.4 evaluations of 30.

    References:
        ParaAttention, First Block Cache (2024), https://github.com/chengzeyi/ParaAttention; after
        TeaCache (2024), https://arxiv.org/abs/2411.19108
    """

    source = f"{DIFFUSERS}, FirstBlockCache (ParaAttention, after TeaCache)"
    adaptive = True
    config = "FirstBlockCacheConfig"

    def why_not(self, target: Any, request: SampleRequest) -> str:
        return cannot_skip_blocks(target) or no_context(target, request)

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        return threshold_ladder(num_steps, 0.03, 1.5, 18)

    def arguments(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {"threshold": setting.values["threshold"]}
