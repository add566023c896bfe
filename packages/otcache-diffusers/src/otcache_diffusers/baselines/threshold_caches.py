"""FirstBlockCache and SeaCache of diffusers: caches that a threshold alone controls."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, final

import numpy as np
import torch

from otcache_core.contracts import BaselineSetting, SampleRequest
from otcache_diffusers.baselines.diffusers_caches import (
    DiffusersCache,
    cannot_skip_blocks,
    method_replaced,
    no_context,
)
from otcache_diffusers.compat import DIFFUSERS

#: Transformers that diffusers has a SeaCache adapter for.
_ADAPTED = ("WanTransformer3DModel", "Cosmos3OmniTransformer")


class ThresholdCache(DiffusersCache):
    """A cache that skips blocks until a change reaches its threshold.

    Attributes:
        thresholds: smallest and largest of the ladder, which rises at equal ratios, and their number.
    """

    adaptive = True
    thresholds: ClassVar[tuple[float, float, int]]

    def why_not(self, target: Any, request: SampleRequest) -> str:
        return cannot_skip_blocks(target) or no_context(target, request)

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        values = [float(f"{value:.3g}") for value in np.geomspace(*self.thresholds)]
        return [BaselineSetting(f"threshold={v:g}", {"threshold": v}, num_steps) for v in values]

    def arguments(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {"threshold": setting.values["threshold"]}


@final
class FirstBlockCache(ThresholdCache):
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
    config = "FirstBlockCacheConfig"
    thresholds = (0.03, 1.5, 18)


@final
class SeaCache(ThresholdCache):
    r"""Skip all blocks while the latent, filtered for its noise level, has changed little.

    .. math:: \sum_{i=k+1}^{t} \frac{\mathrm{mean} |S_i x_i - S_{i-1} x_{i-1}|}
        {\mathrm{mean} |S_{i-1} x_{i-1}|} < \theta

    with S_t the Wiener filter of step t's signal and noise under a power-law spectrum, and k the step
    computed last. What the blocks added at k is added again: ``residual_order=0``, as published;
    diffusers' default extrapolates and is worse on the demo model at low budgets (RMSE of final states
    0.40 against 0.12 at 7 of 30 steps). Its cap of two skips in a row is removed: it would compute a
    third of the steps. First and last step are always computed.

    On Flux diffusers alone computes everything: it has no view of Flux's packed latents, and
    ``FluxPipeline`` does not report its step and sigma. This baseline supplies both in the two ways that
    diffusers documents, a ``raw_vision_callback`` and the fields of ``cache_context``.

    References:
        SeaCache: spectral-evolution-aware cache for accelerating diffusion models (2026),
        https://arxiv.org/abs/2602.18993
    """

    source = f"{DIFFUSERS}, SeaCache of order 0, fed with Flux's latents and steps by otcache"
    config = "SeaCacheConfig"
    thresholds = (0.05, 2.5, 16)

    def why_not(self, target: Any, request: SampleRequest) -> str:
        return super().why_not(target, request) or _no_latents(target)

    def arguments(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> dict[str, Any]:
        adapted = type(target.transformer).__name__ in _ADAPTED
        return {
            **super().arguments(target, setting, measured),
            "residual_order": 0,
            "max_consecutive_cached": 0,
            "raw_vision_callback": None if adapted else flux_latents,
        }

    def around(self, target: Any) -> AbstractContextManager[None]:
        return _positions_reported(target)


def _no_latents(target: Any) -> str:
    """Return "" if the filter can be given sigmas and latents, else the reason why not."""
    if not hasattr(target.scheduler, "sigmas"):
        return f"{type(target.scheduler).__name__} has no sigmas, which the filter needs"
    kind = type(target.transformer).__name__
    takes = inspect.signature(type(target.transformer).forward).parameters
    if kind in _ADAPTED or ("img_ids" in takes and target.transformer.config.in_channels % 4 == 0):
        return ""
    return f"neither {DIFFUSERS} nor otcache knows how {kind} takes its latents"


def flux_latents(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[torch.Tensor]:
    """Unpack the tokens of Flux into latents of shape (C, 1, H, W): a ``raw_vision_callback``.

    Two by two pixels of C channels make one token, the channel first; ``img_ids`` holds the rows and
    columns of the tokens.
    """
    tokens, ids = kwargs["hidden_states"], kwargs["img_ids"]
    height, width = (int(ids[..., axis].max()) + 1 for axis in (1, 2))
    channels = tokens.shape[-1] // 4
    squares = tokens.unflatten(2, (channels, 2, 2)).unflatten(1, (height, width))
    latents = squares.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return list(latents.unsqueeze(2))


@contextmanager
def _positions_reported(target: Any) -> Iterator[None]:
    """Add step and sigma to each ``cache_context``; what the pipeline passes itself is kept."""
    scheduler, original = target.scheduler, target.transformer.cache_context

    def cache_context(name: str, **known: Any) -> AbstractContextManager[None]:
        step = getattr(scheduler, "step_index", None) or 0
        position = {
            "step_index": step,
            "sigma": float(scheduler.sigmas[step]),
            "num_inference_steps": len(scheduler.timesteps),
        }
        context: AbstractContextManager[None] = original(name, **{**position, **known})
        return context

    with method_replaced(target.transformer, "cache_context", cache_context):
        yield
