"""What baselines share whose cache is one of diffusers, enabled on a transformer; diffusers is not patched.

:class:`DiffusersCache` is their base class; below it are the reasons why a pipeline cannot have such a cache,
and the cache contexts that a pipeline enters.
"""

from __future__ import annotations

import functools
import inspect
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

from torch import nn

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_diffusers.compat import (
    DIFFUSERS,
    HOOKS,
    cache_config,
    cached_blocks,
    can_pass_over,
    forget_child_hooks,
    hooks_of,
    is_modular,
    is_pipeline,
    remove_hooks,
    reset_hooks,
)

#: What hooks and ``enable_cache`` put on modules; ``remove_hook`` and ``disable_cache`` leave it there.
_MARKS = ("forward", HOOKS, "_cache_config")


class DiffusersCache(Baseline):
    """A cache of diffusers on the transformer of a pipeline.

    Attributes:
        config: name of the class that ``enable_cache`` takes.
    """

    config: ClassVar[str]

    @abstractmethod
    def why_not(self, target: Any, request: SampleRequest) -> str:
        """Return "" if the pipeline, which has ``enable_cache``, suits the rule, else the reason."""

    @abstractmethod
    def arguments(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments of the config."""

    def around(self, target: Any) -> AbstractContextManager[None]:
        """Return a context that is entered once the cache is enabled."""
        return nullcontext()

    def supports(self, target: Any, request: SampleRequest) -> str:
        return cannot_cache(target, self.config) or self.why_not(target, request)

    @contextmanager
    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> Iterator[None]:
        config = cache_config(self.config)(**self.arguments(target, setting, measured))
        with cache_enabled(target, config), self.around(target):
            yield


@contextmanager
def cache_enabled(target: Any, config: Any) -> Iterator[None]:
    """Enable a cache of diffusers, and begin every run with empty caches.

    diffusers empties its caches when a pipeline call returns, not when it raises, so they are also
    emptied at each ``scheduler.set_timesteps``. On exit, also after an exception, the hooks, the
    ``forward`` that they leave in the ``__dict__`` of modules and the mark of ``enable_cache`` are
    removed; other hooks stay.

    Args:
        target: the pipeline; its ``transformer`` gets the cache.
        config: one of diffusers' ``...CacheConfig`` objects.
    """
    denoiser = target.transformer
    before = [_state_of(module) for module in denoiser.modules()]
    try:
        forget_child_hooks(denoiser)
        denoiser.enable_cache(config)
        with _emptied_before_runs(target):
            yield
    finally:
        for module, hooks, marks in before:
            _restore(module, hooks, marks)
        forget_child_hooks(denoiser)


def _state_of(module: nn.Module) -> tuple[nn.Module, frozenset[str], dict[str, Any]]:
    """Return a module, the names of its hooks, and its marks."""
    marks = {name: vars(module)[name] for name in _MARKS if name in vars(module)}
    return module, frozenset(hooks_of(module)), marks


def _restore(module: nn.Module, hooks: frozenset[str], marks: dict[str, Any]) -> None:
    remove_hooks(module, [name for name in hooks_of(module) if name not in hooks])
    for name in _MARKS:
        vars(module).pop(name, None)
    vars(module).update(marks)


@contextmanager
def _emptied_before_runs(target: Any) -> Iterator[None]:
    original = target.scheduler.set_timesteps

    @functools.wraps(original)
    def set_timesteps(*args: Any, **kwargs: Any) -> Any:
        reset_hooks(target.transformer)
        return original(*args, **kwargs)

    with method_replaced(target.scheduler, "set_timesteps", set_timesteps):
        yield


@contextmanager
def method_replaced(owner: Any, name: str, method: Any) -> Iterator[None]:
    """Put a method on one instance, and afterwards what was there before."""
    attributes = vars(owner)
    before = attributes.get(name)
    attributes[name] = method
    try:
        yield
    finally:
        del attributes[name]
        if before is not None:
            attributes[name] = before


# -- reasons ------------------------------------------------------------------------------------


def cannot_cache(target: Any, config: str) -> str:
    """Return "" if ``target.transformer.enable_cache`` takes a config of this name, else why not."""
    if not is_pipeline(target) or is_modular(target):
        kind = type(target).__name__
        return f"needs a DiffusionPipeline, got {kind}: others do not name the calls to the cache"
    if cache_config(config) is None:
        return f"{DIFFUSERS} has no {config}: install a later one"
    pipeline, denoiser = type(target).__name__, getattr(target, "transformer", None)
    if not isinstance(denoiser, nn.Module):
        return f"{pipeline} has no transformer to enable the cache on"
    if isinstance(getattr(target, "transformer_2", None), nn.Module):
        return f"{pipeline} has two transformers that share a run: the cache would see half of it"
    if not hasattr(denoiser, "enable_cache"):
        return f"{type(denoiser).__name__} has no enable_cache in {DIFFUSERS}"
    if not hasattr(getattr(target, "scheduler", None), "set_timesteps"):
        return f"{pipeline} has no scheduler with timesteps"
    return ""


def cannot_skip_blocks(target: Any) -> str:
    """Return "" if diffusers can skip this transformer's blocks, else why not.

    It needs a registered layout of each block's inputs and outputs, and a first block that is not the
    last one.
    """
    denoiser = target.transformer
    blocks = cached_blocks(denoiser)
    for block in blocks:
        if not can_pass_over(block):
            return f"{DIFFUSERS} does not know how to skip a {type(block).__name__}"
    if len(blocks) < 2:
        count = "one block" if blocks else "no block"
        return f"{type(denoiser).__name__} has {count}, and the rule needs two"
    return ""


def no_context(target: Any, request: SampleRequest) -> str:
    """Return "" if the pipeline enters cache contexts, else why they are needed."""
    if contexts_of(target, request):
        return ""
    return f"{type(target).__name__} enters no cache_context, and the cache needs it to know the branch"


def several_calls(target: Any) -> str:
    """Return "" if the sampler makes one call per step in each context, else that as a reason."""
    if getattr(target.scheduler, "order", 1) == 1:
        return ""
    return f"it counts one call per step, and {type(target.scheduler).__name__} makes several"


# -- cache contexts -----------------------------------------------------------------------------


def contexts_of(target: Any, request: SampleRequest) -> tuple[str, ...]:
    """Return the names of the cache contexts that a pipeline enters at each step.

    They are read off the code of the pipeline's ``__call__``, without a run: one that guides by two
    calls names both contexts there, and enters the second only if guidance is on.

    Args:
        target: a diffusers pipeline.
        request: with the arguments of its calls.

    Returns:
        ``("cond", "uncond")`` if guidance takes two calls, ``("cond_uncond",)`` if one call takes both
        as a batch, ``("cond",)`` for one call without guidance; () if it enters no context.
    """
    code = inspect.unwrap(type(target).__call__).__code__
    if "cache_context" not in code.co_names:
        return ()
    if "cond_uncond" in code.co_consts:
        return ("cond_uncond",) if is_guided(target, request) else ("cond",)
    both = "uncond" in code.co_consts and is_guided(target, request)
    return ("cond", "uncond") if both else ("cond",)


def is_guided(target: Any, request: SampleRequest) -> bool:
    """Return whether the request uses classifier-free guidance.

    ``true_cfg_scale`` above 1 guides only with a negative prompt; without that argument
    ``guidance_scale`` above 1 does.
    """
    parameters = inspect.signature(type(target).__call__).parameters
    name = next((n for n in ("true_cfg_scale", "guidance_scale") if n in parameters), "")
    if not name:
        return False
    negative = any(k.startswith("negative_") and v is not None for k, v in request.call.items())
    scale = float(request.call.get(name, parameters[name].default))
    return scale > 1 and (negative or name == "guidance_scale")
