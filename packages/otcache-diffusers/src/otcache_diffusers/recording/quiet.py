"""Loading and calling pipelines without chatter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from otcache_diffusers.compat import load

_MISSING = object()


@contextmanager
def quiet_loading(*names: str) -> Iterator[None]:
    """Show no bars and no advice of diffusers and transformers while loading; set back afterwards.

    Args:
        names: of the libraries, where only one of the two is needed.

    Raises:
        OtcacheError: if one of them is missing or cannot be imported.
    """
    needed = names or ("diffusers", "transformers")
    libraries = [load(f"{name}.utils.logging", "loading a model") for name in needed]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in libraries]
    for log in libraries:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, bars) in zip(libraries, before, strict=True):
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


@contextmanager
def quiet(target: Any) -> Iterator[None]:
    """No progress bar in a pipeline's calls, whatever the user has set; set back afterwards."""
    before = getattr(target, "_progress_bar_config", _MISSING)
    if hasattr(target, "set_progress_bar_config"):
        target.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if before is not _MISSING:
            target._progress_bar_config = before
        else:
            vars(target).pop("_progress_bar_config", None)
