"""A pipeline with cache-dit on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from otcache_diffusers.baselines.dbcache.library import library, silenced
from otcache_diffusers.hooks import denoisers_of


@contextmanager
def attached(target: Any, config: Any, calibrator: Any = None) -> Iterator[None]:
    """A context in which cache-dit caches; each call of the pipeline begins with empty caches.

    While it is open ``__call__`` of the pipeline's class is cache-dit's, for every pipeline of that class.
    ``cache_dit.disable_cache`` leaves a rewritten ``forward`` and marks on the instance of the denoiser,
    and its children in another order; that is put right here, so that nothing stays but what importing
    cache-dit does.

    Args:
        target: the pipeline.
        config: a ``DBCacheConfig``.
        calibrator: a ``CalibratorConfig``, or None.
    """
    marks = _Marks(target)
    with silenced():
        try:
            library().enable_cache(target, cache_config=config, calibrator_config=calibrator)
            marks.see()
            yield
        finally:
            library().disable_cache(target)
            marks.remove()


class _Marks:
    """What cache-dit puts on the instances, and on the class."""

    def __init__(self, target: Any) -> None:
        denoiser = denoisers_of(target)[""]
        modules = list(denoiser.modules())
        self._owners = [vars(target), *map(vars, modules)]
        self._lists = [False, *(isinstance(module, nn.ModuleList) for module in modules)]
        self._before = [dict(own) for own in self._owners]
        self._added: list[set[str]] = [set() for _ in self._owners]
        self._children, self._order = denoiser._modules, dict(denoiser._modules)
        self._class, self._called = type(target), "__call__" in vars(type(target))

    def see(self) -> None:
        """Note what was added by enabling it; runs may add things of the models' own later."""
        pairs = zip(self._owners, self._before, strict=True)
        self._added = [set(own) - set(before) for own, before in pairs]

    def remove(self) -> None:
        """Take off what is still there; a list of blocks does nothing in a run, so all of its is theirs."""
        every = zip(self._owners, self._before, self._added, self._lists, strict=True)
        for own, before, added, listed in every:
            for name in set(own) - set(before) if listed else added & set(own):
                del own[name]
            if "forward" in before:
                own["forward"] = before["forward"]
        # Its forward sets the block lists anew at every call, which puts them last among the children.
        self._children.clear()
        self._children.update(self._order)
        if not self._called and "__call__" in vars(self._class):
            delattr(self._class, "__call__")
