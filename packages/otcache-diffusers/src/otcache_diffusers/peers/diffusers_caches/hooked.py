"""Put a cache of diffusers on a pipeline's transformer for a while, and leave no trace."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.hooks import HookRegistry  # type: ignore[attr-defined]  # lazy export
from torch import nn

#: What hooks and ``enable_cache`` put on modules; ``remove_hook`` and ``disable_cache`` leave it there.
_MARKS = ("forward", "_diffusers_hook", "_cache_config")

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
        _forget_children(denoiser)
        denoiser.enable_cache(config)
        with _emptied_before_runs(target):
            yield
    finally:
        for module, hooks, marks in memory:
            _restore(module, hooks, marks)
        _forget_children(denoiser)


def _remember(module: nn.Module) -> _Memory:
    marks = {name: vars(module)[name] for name in _MARKS if name in vars(module)}
    return module, frozenset(_hooks(module)), marks


def _restore(module: nn.Module, hooks: frozenset[str], marks: dict[str, Any]) -> None:
    registry: Any = vars(module).get("_diffusers_hook")
    for name in reversed([name for name in _hooks(module) if name not in hooks]):
        registry.remove_hook(name, recurse=False)
    for name in _MARKS:
        vars(module).pop(name, None)
    vars(module).update(marks)


def _hooks(module: nn.Module) -> list[str]:
    return list(getattr(vars(module).get("_diffusers_hook"), "hooks", {}))


def _forget_children(denoiser: nn.Module) -> None:
    """The registry at the root keeps a list of those below it, which is stale now."""
    registry = vars(denoiser).get("_diffusers_hook")
    if registry is not None:
        registry._child_registries_cache = None


@contextmanager
def _emptied_before_runs(target: Any) -> Iterator[None]:
    own = vars(target.scheduler)
    original, before = target.scheduler.set_timesteps, own.get("set_timesteps")

    @functools.wraps(original)
    def set_timesteps(*args: Any, **kwargs: Any) -> Any:
        HookRegistry.check_if_exists_or_initialize(target.transformer).reset_stateful_hooks()
        return original(*args, **kwargs)

    own["set_timesteps"] = set_timesteps
    try:
        yield
    finally:
        del own["set_timesteps"]
        if before is not None:
            own["set_timesteps"] = before
