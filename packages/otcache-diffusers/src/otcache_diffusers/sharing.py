"""Who else uses a pipeline's denoisers."""

from __future__ import annotations

import gc
from typing import Any

from diffusers import DiffusionPipeline

from otcache_diffusers.driver import denoisers_of


def sharers(target: Any) -> list[str]:
    """Class names of other live pipelines that hold a denoiser of ``target`` (``from_pipe``).

    Asks the garbage collector, since nothing else knows all pipelines: some ten milliseconds.
    """
    if not isinstance(target, DiffusionPipeline):
        return []
    holders: dict[int, str] = {}
    for module in denoisers_of(target).values():
        for holder in gc.get_referrers(module):
            attributes = holder if type(holder) is dict else getattr(holder, "__dict__", {})
            if "_internal_dict" in attributes and attributes is not vars(target):
                holders[id(attributes)] = _owner(holder)
    return list(holders.values())


def _owner(holder: Any) -> str:
    """The class of the pipeline, or of the pipeline whose ``__dict__`` the holder is."""
    owners = (holder, *gc.get_referrers(holder))
    return next(
        (type(o).__name__ for o in owners if isinstance(o, DiffusionPipeline)), "a pipeline"
    )
