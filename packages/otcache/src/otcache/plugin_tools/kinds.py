"""Kinds of plugins as users write them: ``cost-model``, or ``cost_models`` as in code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from otcache_core.errors import OtcacheError, expected
from otcache_core.plugins import KINDS


def spelled(kind: str) -> str:
    """Return a kind as one plugin of it is called on the command line: ``cost-model`` of ``cost_models``."""
    return kind.removesuffix("s").replace("_", "-")


def in_words(kind: str) -> str:
    """Return a kind as one plugin of it is called in a sentence: ``cost model`` of ``cost_models``."""
    return spelled(kind).replace("-", " ")


def read_kind(text: str, kinds: Iterable[str] = KINDS) -> str:
    """Return the kind that a text names: in singular or plural, with hyphens, underscores or spaces.

    Args:
        text: as the user wrote it.
        kinds: those that may be named.

    Raises:
        OtcacheError: if it names none of them.
    """
    allowed = {spelled(kind): kind for kind in kinds}
    word = text.strip().lower().replace("_", "-").replace(" ", "-").removesuffix("s")
    if word in allowed:
        return allowed[word]
    near = difflib.get_close_matches(word, allowed, n=1)
    hint = f"did you mean {near[0]!r}?" if near else ""
    raise OtcacheError(expected("kind", text, f"one of {', '.join(allowed)}", hint))
