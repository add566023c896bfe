"""Loading and calling pipelines without chatter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MISSING = object()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No bars and no advice from diffusers and transformers while loading; set back afterwards."""
    import diffusers.utils.logging
    import transformers.utils.logging

    libraries: tuple[Any, ...] = (diffusers.utils.logging, transformers.utils.logging)
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
