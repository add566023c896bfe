"""Caches of somebody else on the same denoiser: two of them at once would compound their errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from otcache_core.errors import ExecutionError

#: diffusers' one cache without error: text keys and values do not change from step to step.
_EXACT = ("TextKVCacheConfig", "diffusers.hooks.text_kv_cache")


def refuse_foreign_caches(target: Any, denoisers: Mapping[str, nn.Module]) -> None:
    """Make sure that no other cache decides which parts of a denoiser are computed.

    Looks at the mark that diffusers' ``enable_cache`` leaves, at its stateful hooks on any submodule
    (they can be applied without ``enable_cache``), and at the mark of cache-dit.

    Args:
        target: what is going to run, for the advice.
        denoisers: its denoisers.

    Raises:
        ExecutionError: naming the cache and how to take it off.
    """
    for module in denoisers.values():
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
    registries = [part.__dict__.get("_diffusers_hook") for part in module.modules()]
    hooks = [pair for registry in registries for pair in getattr(registry, "hooks", {}).items()]
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
