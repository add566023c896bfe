"""Notices: each is a warning at a line of the user's program, given once."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from otcache_core.errors import OtcacheNotice

#: Packages between the user's line and a notice.
_BETWEEN = frozenset(
    (
        *("otcache", "otcache_core", "otcache_diffusers", "otcache_solvers", "otcache_video"),
        *("torch", "diffusers", "accelerate", "contextlib", "functools"),
    )
)
#: The fact of notices that say why skipped steps reuse outputs.
NOT_FITTED = "no weights are fitted"
_HEARD: ContextVar[Callable[[str], None] | None] = ContextVar("otcache_heard", default=None)
_GIVEN: ContextVar[tuple[set[str], ...]] = ContextVar("otcache_notices", default=())
#: Of this process; None sends notices to Python's warnings.
_logger: logging.Logger | None = None


def notices_to(logger: logging.Logger | None) -> None:
    """Send notices to a logger instead of Python's warnings, in every thread of this process.

    Each is one record of level WARNING: the message as a whole, the user's line as ``pathname`` and
    ``lineno``, and the kind of the notice, such as ``PluginWarning``, as ``record.notice``. None of them is
    lost to the filters of :mod:`warnings`, which show a line's warning once in a process.

    Args:
        logger: of the program that uses otcache; None for Python's warnings again.

    Examples:
        >>> notices_to(logging.getLogger("service.otcache"))
        >>> notices_to(None)
    """
    global _logger
    _logger = logger


def notify(message: str, *, fact: str = "", category: type[OtcacheNotice] = OtcacheNotice) -> None:
    """Warn of something that was adapted rather than refused, once inside :func:`once`.

    Args:
        message: what happened and what to do.
        fact: shared by messages about the same thing (with other numbers, or another reason), of which only
            the first is given.
        category: kind of warning.
    """
    listener = _HEARD.get()
    if listener is not None:
        listener(message)
    keys = {message, fact} - {""}
    given = _GIVEN.get()
    if any(keys & known for known in given):
        return
    for known in given:
        known |= keys
    if _logger is None:
        warnings.warn(message, category, stacklevel=_users_level())
    else:
        kind = {"notice": category.__name__}
        _logger.warning("%s", message, extra=kind, stacklevel=_users_level())


def not_fitted(reason: str) -> str:
    """Return the notice that no forecast weights are fitted, and why."""
    return f"skipped steps reuse or are forecast linearly, no weights are fitted: {reason}."


@contextmanager
def once(given: set[str] | None = None) -> Iterator[None]:
    """Give each notice once inside this context.

    Args:
        given: the messages given before, if several contexts count as one; new ones are added to it. Enter
            and leave such a context in one function.
    """
    token = _GIVEN.set((*_GIVEN.get(), set() if given is None else given))
    try:
        yield
    finally:
        _GIVEN.reset(token)


@contextmanager
def heard(listener: Callable[[str], None]) -> Iterator[None]:
    """Report messages inside this context to a listener too, also those given before.

    Args:
        listener: called with each message.
    """
    token = _HEARD.set(listener)
    try:
        yield
    finally:
        _HEARD.reset(token)


def _users_level() -> int:
    """Count the calls between ``notify`` and the user's line; 2, for its caller, if there is none."""
    frame, level = sys._getframe(1).f_back, 2
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _BETWEEN:
            return level
        frame, level = frame.f_back, level + 1
    return 2
