"""cache-dit, where it is installed."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from otcache_diffusers.compat import installed as version_of
from otcache_diffusers.compat import is_pipeline
from otcache_diffusers.hooks import denoisers_of, unsupported

_SERIES = "1.5."
_INSTALL = "pip install 'otcache-diffusers[arena]'"


def installed() -> str:
    """Its version; "" where it is not installed."""
    return version_of("cache-dit")


def library() -> Any:
    """The module. Importing it replaces ``warning_once`` and ``info_once`` of ``logging.Logger``."""
    return importlib.import_module("cache_dit")


def unfit(target: Any) -> str:
    """ "" if cache-dit knows the target, else the reason why not."""
    found = installed()
    if not found:
        return f"cache-dit is not installed: {_INSTALL}"
    if not found.startswith(_SERIES):
        return f"needs cache-dit {_SERIES}x, got {found}: {_INSTALL}"
    reason = unsupported(target)
    if reason:
        return reason
    kind = type(target).__name__
    if not is_pipeline(target):
        return f"cache-dit needs a diffusers pipeline, got {kind}"
    if len(denoisers_of(target)) > 1:
        return f"{kind} has {len(denoisers_of(target))} denoisers, whose calls are not told apart"
    try:
        known = library().BlockAdapterRegister.is_supported(target)
    except ImportError as error:
        return f"cache-dit cannot be imported: {error}"
    return _too_few_blocks(target) if known else f"cache-dit knows no blocks of {kind}"


def first_blocks(target: Any) -> int:
    """How many blocks are computed at every step: a share of the shortest list, 8 at most.

    8 is cache-dit's default, meant for some sixty blocks; an eighth of the list, at least one block, is
    the same share elsewhere.
    """
    return min(8, max(1, _shortest(target) // 8))


@contextmanager
def silenced() -> Iterator[None]:
    """No advice from cache-dit's loggers; set back afterwards."""
    known = logging.root.manager.loggerDict
    loggers = [logging.getLogger(name) for name in known if name.startswith("cache_dit")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _too_few_blocks(target: Any) -> str:
    try:
        shortest = _shortest(target)
    except Exception as error:  # whatever cache-dit raises where it does not know the transformer
        return f"cache-dit does not know the denoiser of {type(target).__name__}: {error}"
    return "" if shortest > 1 else "a list of one block leaves nothing to skip"


def _shortest(target: Any) -> int:
    """Blocks in the shortest list that cache-dit would cache; looks, and patches nothing."""
    module = library()
    with silenced():
        adapter = module.BlockAdapterRegister.get_adapter(target, skip_post_init=True)
    lists = module.BlockAdapter.flatten(adapter.blocks)
    return min(map(len, lists if isinstance(lists, list) else [lists]))
