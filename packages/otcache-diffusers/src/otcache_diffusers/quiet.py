"""Calls without a progress bar each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MISSING = object()


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
