"""Why a pipeline cannot run with a cache of diffusers, in words."""

from __future__ import annotations

from typing import Any

from torch import nn

from otcache_diffusers.compat import (
    DIFFUSERS,
    cache_config,
    cached_blocks,
    can_pass_over,
    has_cached_attention,
    is_pipeline,
)


def cannot_cache(target: Any, config: str) -> str:
    """ "" if ``target.transformer.enable_cache`` takes a config of this name, else why not."""
    if not is_pipeline(target):
        kind = type(target).__name__
        return f"needs a diffusers pipeline, got {kind}: the cache sits on a pipeline's transformer"
    if cache_config(config) is None:
        return f"{DIFFUSERS} has no {config}: install a later one"
    pipeline, denoiser = type(target).__name__, getattr(target, "transformer", None)
    if not isinstance(denoiser, nn.Module):
        return f"{pipeline} has no transformer, and the cache sits on one"
    if isinstance(getattr(target, "transformer_2", None), nn.Module):
        return f"{pipeline} has two transformers that share a run: the cache would know half of it"
    if not hasattr(denoiser, "enable_cache"):
        return f"{type(denoiser).__name__} has no enable_cache in {DIFFUSERS}"
    if not hasattr(getattr(target, "scheduler", None), "set_timesteps"):
        return f"{pipeline} has no scheduler with timesteps"
    return ""


def cannot_skip_blocks(target: Any) -> str:
    """ "" if diffusers can pass over this transformer's blocks, else why not.

    It needs a registered layout of each block's inputs and outputs, and a first block that is not the
    last one.
    """
    denoiser = target.transformer
    blocks = cached_blocks(denoiser)
    for block in blocks:
        if not can_pass_over(block):
            return f"{DIFFUSERS} does not know how to pass over a {type(block).__name__}"
    if len(blocks) < 2:
        count = "one block" if blocks else "no block"
        return f"{type(denoiser).__name__} has {count}, and the rule needs two"
    return ""


def enters_no_context(target: Any) -> str:
    """The reason that goes with a pipeline without cache contexts."""
    return (
        f"{type(target).__name__} enters no cache_context, by which the cache tells branches apart"
    )


def has_no_attention(target: Any) -> str:
    """ "" if there is attention whose outputs diffusers can keep, else why not."""
    denoiser = target.transformer
    if has_cached_attention(denoiser):
        return ""
    return f"{DIFFUSERS} knows none of the attention in {type(denoiser).__name__}"


def tells_no_timestep(target: Any) -> str:
    """ "" if the pipeline says at which timestep it is, else why that is needed."""
    if hasattr(type(target), "current_timestep"):
        return ""
    return f"{type(target).__name__} has no current_timestep, and the rule holds in a range of them"


def calls_several_times(target: Any) -> str:
    """ "" if the sampler makes one call a step in each context, else that as a reason."""
    if getattr(target.scheduler, "order", 1) == 1:
        return ""
    return f"it counts one call a step, and {type(target.scheduler).__name__} makes several"
