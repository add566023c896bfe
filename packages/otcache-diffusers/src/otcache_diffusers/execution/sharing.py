"""Who else uses the networks that feed a pipeline's denoiser."""

from __future__ import annotations

import gc
from typing import Any

from otcache_diffusers.compat import is_pipeline
from otcache_diffusers.hooks import companions_of, denoisers_of


def lent_companions(target: Any) -> dict[str, list[str]]:
    """Class names, by companion of ``target``, of other live pipelines that hold it and no denoiser.

    Their calls of the companion, in a callback of a run of ``target`` say, could not be told from
    its own.
    """
    found = {name: _holders(target, module) for name, module in companions_of(target).items()}
    if not any(found.values()):
        return {}
    own = _holders(target, *denoisers_of(target).values()).keys()
    lent = {
        name: [text for key, text in by.items() if key not in own] for name, by in found.items()
    }
    return {name: others for name, others in lent.items() if others}


def _holders(target: Any, *parts: Any) -> dict[int, str]:
    """Return other pipelines with any of these as an attribute, by the identity of their ``__dict__``."""
    holders: dict[int, str] = {}
    for holder in gc.get_referrers(*parts):  # which looks at every object there is, once
        attributes = holder if type(holder) is dict else getattr(holder, "__dict__", {})
        if "_internal_dict" in attributes and attributes is not vars(target):
            holders[id(attributes)] = _owner(holder)
    return holders


def _owner(holder: Any) -> str:
    """The class of the pipeline, or of the pipeline whose ``__dict__`` the holder is."""
    owners = (holder, *gc.get_referrers(holder))
    return next((type(o).__name__ for o in owners if is_pipeline(o)), "a pipeline")
