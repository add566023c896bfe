"""Say why a target cannot be attached to: a cache of another library, or another context of otcache."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from otcache_core.callable_denoiser import CallableDenoiser
from otcache_core.errors import ExecutionError
from otcache_diffusers.compat import hooks_of, is_pipeline

#: diffusers' one cache without error: text keys and values do not change from step to step.
_EXACT = ("TextKVCacheConfig", "diffusers.hooks.text_kv_cache")
#: How deep objects inside one another are searched for modules.
_DEPTH = 6


def refuse_other_caches(target: Any, denoisers: Iterable[nn.Module]) -> None:
    """Make sure that no other cache decides which parts of a denoiser are computed.

    Two at once would compound their errors. Looks at the mark that diffusers' ``enable_cache`` leaves, at
    its stateful hooks on any submodule (they can be applied without ``enable_cache``), and at the mark of
    cache-dit.

    Args:
        target: what is going to run, for the advice.
        denoisers: its denoisers.

    Raises:
        ExecutionError: naming the cache and how to remove it.
    """
    for module in denoisers:
        root = getattr(module, "_orig_mod", module)
        found = _enabled(root) or _cache_dit(root) or _hooked(root)
        if found:
            what, advice = found
            raise ExecutionError(
                f"{type(root).__name__} must have no other cache, got {what}: a step that otcache "
                f"computes would not be computed in truth. {advice} before accelerating "
                f"{type(target).__name__}."
            )


def _enabled(module: nn.Module) -> tuple[str, str] | None:
    config = getattr(module, "_cache_config", None)
    if config is None or type(config).__name__ in _EXACT:
        return None
    return type(config).__name__, "Call disable_cache() on the denoiser"


def _cache_dit(module: nn.Module) -> tuple[str, str] | None:
    if not module.__dict__.get("_is_cached", False):
        return None
    return "cache-dit's", "Call cache_dit.disable_cache(pipe)"


def _hooked(module: nn.Module) -> tuple[str, str] | None:
    hooks = [pair for part in module.modules() for pair in hooks_of(part).items()]
    for name, hook in hooks:
        source = type(hook).__module__
        if getattr(hook, "_is_stateful", False) and source not in _EXACT:
            names = dict.fromkeys(n for n, other in hooks if type(other).__module__ == source)
            return (
                f"the stateful hook {name!r}",
                "Call HookRegistry.check_if_exists_or_initialize(denoiser).remove_hook(name, "
                f"recurse=True) for each name of {', '.join(map(repr, names))}",
            )
    return None


def inner_modules(denoiser: Any) -> list[nn.Module]:
    """Return the modules that a denoiser holds, in the order they are found; of a module itself.

    Searched are partials, methods, closures, globals that a function names, lists, dictionaries and
    attributes. What compiled code holds (a session of ONNX Runtime) is not seen. The denoiser of a pipeline
    may refer to that, whose other parts it does not call: a pipeline is searched only for a loop's.

    Args:
        denoiser: a module or any other callable.
    """
    found: list[nn.Module] = []
    through = isinstance(denoiser, CallableDenoiser)
    seen: dict[int, Any] = {}  # the objects are kept, so that no identity is used twice
    layer = [denoiser]
    for _ in range(_DEPTH):
        inside: list[Any] = []
        for value in layer:
            if id(value) in seen or isinstance(value, (type, ModuleType)):
                continue
            if not through and is_pipeline(value):
                continue
            seen[id(value)] = value
            if isinstance(value, nn.Module):
                found.append(value)
            else:
                inside += _inside(value)
        layer = inside
    return found


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, CallableDenoiser):
        return [value.__wrapped__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        return _named_by(value)
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple)):
        return value
    return list(getattr(value, "__dict__", {}).values())


def _named_by(function: FunctionType) -> list[Any]:
    try:
        names = inspect.getclosurevars(function)
    except ValueError:  # a cell that is not filled yet
        return []
    wrapped = getattr(function, "__wrapped__", None)
    return [wrapped, *names.nonlocals.values(), *names.globals.values()]


def attached_already(target: Any, holder: Any) -> str:
    """Say why a target cannot be attached to: it is already, or the pipeline that shares its scheduler is.

    Args:
        target: what was to be accelerated or recorded.
        holder: the target that is attached to.
    """
    kind, other = type(target).__name__, type(holder).__name__
    if target is holder:
        return (
            f"{kind} is already accelerated or recorded by otcache: leave that context first, or call "
            "handle.remove(); otcache.enabled(pipe).remove() does it if the handle or the context is "
            "out of reach."
        )
    return (
        f"{kind} has the scheduler of the {other} that is already accelerated or recorded by otcache, so "
        "its runs are too: leave it at that, or give this one a scheduler of its own first, "
        "pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)."
    )


def module_attached_already(module: nn.Module, holder: Any) -> str:
    """Say why a module cannot be attached to: its calls cannot be distinguished.

    Args:
        module: what was to be attached to.
        holder: the target that has it.
    """
    return (
        f"{type(module).__name__} is already accelerated or recorded by otcache, by way of a "
        f"{type(holder).__name__}, and their calls cannot be distinguished: leave that context first or "
        "call handle.remove(), or load the model twice."
    )
