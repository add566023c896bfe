"""Notices: warnings that point at a line of the user's program, each given once per :func:`once`."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from otcache_core.errors import OtcacheNotice

#: Packages whose stack frames are skipped to find the user's line.
_BETWEEN = frozenset(
    (
        *("otcache", "otcache_core", "otcache_diffusers", "otcache_solvers", "otcache_video"),
        "otcache_ray",
        *("torch", "diffusers", "accelerate", "contextlib", "functools"),
    )
)
#: ``key`` (see :func:`notify`) of all notices that no forecast weights are fitted, whatever the reason.
NOT_FITTED = "no weights are fitted"
_LISTENER: ContextVar[Callable[[str], None] | None] = ContextVar("otcache_heard", default=None)
_GIVEN: ContextVar[tuple[set[str], ...]] = ContextVar("otcache_notices", default=())
#: Logger of this process for notices; None sends them to Python's warnings.
_logger: logging.Logger | None = None


def notices_to(logger: logging.Logger | None) -> None:
    """Send notices to a logger instead of Python's warnings, in every thread of this process.

    Each is one record of level WARNING, with the message, the user's line as ``pathname`` and ``lineno``, and
    the category of the notice, such as ``PluginWarning``, as ``record.notice``. The filters of
    :mod:`warnings`, which by default show a warning only once per line, do not apply.

    Args:
        logger: a logger of the program that uses otcache; None to return to Python's warnings.

    Examples:
        >>> notices_to(logging.getLogger("service.otcache"))
        >>> notices_to(None)
    """
    global _logger
    _logger = logger


def notify(message: str, *, key: str = "", category: type[OtcacheNotice] = OtcacheNotice) -> None:
    """Warn that something was adapted rather than refused; inside :func:`once`, only once.

    Args:
        message: what happened and what to do.
        key: names messages that say the same with other numbers or another reason: inside :func:`once`
            only the first of them is given.
        category: class of the warning.
    """
    listener = _LISTENER.get()
    if listener is not None:
        listener(message)
    keys = {message, key} - {""}
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
    """Return the message that no forecast weights are fitted, and why."""
    return f"skipped steps reuse or are forecast linearly, no weights are fitted: {reason}."


@contextmanager
def once(given: set[str] | None = None) -> Iterator[None]:
    """Give each notice once inside this context.

    Args:
        given: messages and facts given before, for several contexts that count as one; new ones are added
            to it. Enter and exit each context in the same function (it sets a context variable).
    """
    token = _GIVEN.set((*_GIVEN.get(), set() if given is None else given))
    try:
        yield
    finally:
        _GIVEN.reset(token)


@contextmanager
def heard(listener: Callable[[str], None]) -> Iterator[None]:
    """Also report every message inside this context to a listener, even repeated ones.

    Args:
        listener: called with each message.
    """
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def _users_level() -> int:
    """Return the ``stacklevel`` of the user's line, seen from :func:`notify`; 2, its caller, if not found."""
    frame, level = sys._getframe(1).f_back, 2
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _BETWEEN:
            return level
        frame, level = frame.f_back, level + 1
    return 2
