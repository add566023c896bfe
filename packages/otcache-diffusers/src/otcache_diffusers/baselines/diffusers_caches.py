"""What baselines that are caches of diffusers share: attaching, reasons and ladders of thresholds."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

from otcache_core.contracts import SampleRequest
from otcache_diffusers.compat import (
    DIFFUSERS,
    HOOKS,
    cache_config,
    cached_blocks,
    can_pass_over,
    forget_child_hooks,
    has_cached_attention,
    hooks_of,
    is_pipeline,
    remove_hooks,
    reset_hooks,
)

#: What hooks and ``enable_cache`` put on modules; ``remove_hook`` and ``disable_cache`` leave it there.
_MARKS = ("forward", HOOKS, "_cache_config")

#: A module, the names of its hooks, and its marks.
_Memory = tuple[nn.Module, frozenset[str], dict[str, Any]]


@contextmanager
def hooked(target: Any, config: Any) -> Iterator[None]:
    """A context in which a cache of diffusers is enabled and every run begins with empty caches.

    diffusers empties its caches when a pipeline call returns, not when it raises: so they are emptied
    at each ``scheduler.set_timesteps`` too. On exit, also by exception, the hooks, the ``forward`` they
    leave in the ``__dict__`` of modules and the mark of ``enable_cache`` are gone; hooks of somebody
    else stay.

    Args:
        target: the pipeline; its ``transformer`` gets the cache.
        config: one of diffusers' ``...CacheConfig`` objects.
    """
    denoiser = target.transformer
    memory = [_remember(module) for module in denoiser.modules()]
    try:
        forget_child_hooks(denoiser)
        denoiser.enable_cache(config)
        with _emptied_before_runs(target):
            yield
    finally:
        for module, hooks, marks in memory:
            _restore(module, hooks, marks)
        forget_child_hooks(denoiser)


def _remember(module: nn.Module) -> _Memory:
    marks = {name: vars(module)[name] for name in _MARKS if name in vars(module)}
    return module, frozenset(hooks_of(module)), marks


def _restore(module: nn.Module, hooks: frozenset[str], marks: dict[str, Any]) -> None:
    remove_hooks(module, [name for name in hooks_of(module) if name not in hooks])
    for name in _MARKS:
        vars(module).pop(name, None)
    vars(module).update(marks)


@contextmanager
def _emptied_before_runs(target: Any) -> Iterator[None]:
    own = vars(target.scheduler)
    original, before = target.scheduler.set_timesteps, own.get("set_timesteps")

    @functools.wraps(original)
    def set_timesteps(*args: Any, **kwargs: Any) -> Any:
        reset_hooks(target.transformer)
        return original(*args, **kwargs)

    own["set_timesteps"] = set_timesteps
    try:
        yield
    finally:
        del own["set_timesteps"]
        if before is not None:
            own["set_timesteps"] = before


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


def contexts_of(target: Any, request: SampleRequest) -> tuple[str, ...]:
    """Names of the transformer calls of one step, as the pipeline tells them to diffusers' caches.

    Read off the code of the pipeline's ``__call__``: one that guides by two calls names both contexts
    there, and enters the second one only if guidance is on.

    Args:
        target: a diffusers pipeline.
        request: with the arguments of its calls.

    Returns:
        ``("cond", "uncond")`` where guidance takes two calls, ``("cond_uncond",)`` where one call takes
        both as a batch, ``("cond",)`` for one call without guidance; () if it enters no context.
    """
    code = inspect.unwrap(type(target).__call__).__code__
    if "cache_context" not in code.co_names:
        return ()
    if "cond_uncond" in code.co_consts:
        return ("cond_uncond",) if is_guided(target, request) else ("cond",)
    both = "uncond" in code.co_consts and is_guided(target, request)
    return ("cond", "uncond") if both else ("cond",)


def is_guided(target: Any, request: SampleRequest) -> bool:
    """Whether the request asks for classifier-free guidance.

    ``true_cfg_scale`` above 1 guides only where a negative prompt is given, else ``guidance_scale``
    above 1 does.
    """
    parameters = inspect.signature(type(target).__call__).parameters
    name = next((n for n in ("true_cfg_scale", "guidance_scale") if n in parameters), "")
    if not name:
        return False
    given = any(k.startswith("negative_") and v is not None for k, v in request.call.items())
    scale = float(request.call.get(name, parameters[name].default))
    return scale > 1 and (given or name == "guidance_scale")


def geometric(low: float, high: float, count: int) -> list[float]:
    """Thresholds at equal ratios from low to high, to three digits."""
    return [float(f"{value:.3g}") for value in np.geomspace(low, high, count)]


def differing_intervals(num_steps: int) -> list[int]:
    """Intervals k = 2, 3, ... of which each computes fewer of N steps than the one before.

    Every k-th of N steps is computed, ceil(N / k) in all.
    """
    counts = {k: -(-num_steps // k) for k in range(num_steps, 1, -1)}
    smallest = {count: k for k, count in counts.items()}
    return sorted(smallest.values())
