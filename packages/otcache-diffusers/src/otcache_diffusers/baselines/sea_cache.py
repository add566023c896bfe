"""SeaCache of diffusers: skip while the filtered latent changes little."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

import torch

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

_CONFIG = "SeaCacheConfig"
#: Transformers that diffusers has an adapter for.
_ADAPTED = ("WanTransformer3DModel", "Cosmos3OmniTransformer")


@final
class SeaCache(Baseline):
    r"""Skips all blocks while the latent, filtered for its noise level, has changed little.

    .. math:: \sum_{i=k+1}^{t} \frac{\mathrm{mean} |S_i x_i - S_{i-1} x_{i-1}|}
        {\mathrm{mean} |S_{i-1} x_{i-1}|} < \theta

    with S_t the Wiener filter of step t's signal and noise under a power-law spectrum, and k the step
    computed last. What the blocks added at k is added again: ``residual_order=0``, as published;
    diffusers' default extrapolates and is worse on the demo model at low budgets (RMSE of final states
    0.40 against 0.12 at 7 of 30 steps). Its cap of two skips in a row is taken away, which would keep a third
    of the steps. First and last step are always computed.

    On Flux diffusers alone computes everything: it has no view of Flux's packed latents, and
    ``FluxPipeline`` does not say at which step and sigma it is. This baseline says both by the doors that
    diffusers documents, a ``raw_vision_callback`` and the fields of ``cache_context``.

    References:
        SeaCache: spectral-evolution-aware cache for accelerating diffusion models (2026),
        https://arxiv.org/abs/2602.18993
    """

    source = f"{DIFFUSERS}, SeaCache of order 0, fed with Flux's latents and steps by otcache"
    adaptive = True

    def supports(self, target: Any, request: SampleRequest) -> str:
        reason = cannot_cache(target, _CONFIG) or cannot_skip_blocks(target)
        if reason:
            return reason
        if not contexts_of(target, request):
            return enters_no_context(target)
        if not hasattr(target.scheduler, "sigmas"):
            return f"{type(target.scheduler).__name__} tells no sigmas, which the filter needs"
        kind = type(target.transformer).__name__
        if kind not in _ADAPTED and not _packs_latents(target.transformer):
            return f"neither {DIFFUSERS} nor otcache knows how {kind} is handed its latents"
        return ""

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        return [
            BaselineSetting(f"threshold={value:g}", {"threshold": value}, num_steps)
            for value in geometric(0.05, 2.5, 16)
        ]

    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> AbstractContextManager[None]:
        adapted = type(target.transformer).__name__ in _ADAPTED
        config = cache_config(_CONFIG)(
            threshold=setting.values["threshold"],
            residual_order=0,
            max_consecutive_cached=0,
            raw_vision_callback=None if adapted else flux_latents,
        )
        return _fed(target, config)


@contextmanager
def _fed(target: Any, config: Any) -> Iterator[None]:
    with hooked(target, config), told_positions(target):
        yield


def _packs_latents(denoiser: Any) -> bool:
    """Whether its tokens are squares of two by two, with ``img_ids`` to tell where they belong."""
    takes = inspect.signature(type(denoiser).forward).parameters
    return "img_ids" in takes and denoiser.config.in_channels % 4 == 0


def flux_latents(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[torch.Tensor]:
    """A ``raw_vision_callback``: the packed tokens of Flux as pictures, (C, 1, H, W) each.

    Two by two pixels of C channels make one token, the channel first; ``img_ids`` holds the rows and
    columns of the tokens.
    """
    tokens, ids = kwargs["hidden_states"], kwargs["img_ids"]
    height, width = (int(ids[..., axis].max()) + 1 for axis in (1, 2))
    channels = tokens.shape[-1] // 4
    squares = tokens.unflatten(2, (channels, 2, 2)).unflatten(1, (height, width))
    pictures = squares.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return list(pictures.unsqueeze(2))


@contextmanager
def told_positions(target: Any) -> Iterator[None]:
    """A context in which each ``cache_context`` says at which step and sigma it is entered.

    What the pipeline says itself is kept.

    Args:
        target: the pipeline; ``cache_context`` of its transformer is wrapped on the instance.
    """
    denoiser, scheduler = target.transformer, target.scheduler
    original, before = denoiser.cache_context, vars(denoiser).get("cache_context")

    def cache_context(name: str, **known: Any) -> AbstractContextManager[None]:
        step = getattr(scheduler, "step_index", None) or 0
        position = {
            "step_index": step,
            "sigma": float(scheduler.sigmas[step]),
            "num_inference_steps": len(scheduler.timesteps),
        }
        context: AbstractContextManager[None] = original(name, **{**position, **known})
        return context

    vars(denoiser)["cache_context"] = cache_context
    try:
        yield
    finally:
        del vars(denoiser)["cache_context"]
        if before is not None:
            vars(denoiser)["cache_context"] = before
