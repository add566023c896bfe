"""Put a cache of diffusers on a pipeline's transformer for a while, and leave no trace."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from otcache_diffusers.compat import (
    HOOKS,
    forget_child_hooks,
    hooks_of,
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
