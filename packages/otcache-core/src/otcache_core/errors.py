"""The errors of otcache. A message says what is wrong, what was given and expected, and what to do."""

from __future__ import annotations


class OtcacheError(ValueError):
    """Base of every error a user can cause; the command line prints it and exits with status 2."""


class ScheduleError(OtcacheError):
    """A schedule, or the budget of a schedule, is out of range."""


class FileError(OtcacheError):
    """A file is truncated, of another version, or holds a value that is out of range.

    The message names the file, the field, what was found and what was expected.
    """


class MismatchError(OtcacheError):
    """A policy does not fit the pipeline it is put on.

    Another model or prediction type, or, under ``strict``, another grid.
    """


class ExecutionError(OtcacheError):
    """A run cannot be accelerated: the message says at which step, why, and what to do instead."""


class PluginError(OtcacheError):
    """A plugin is unknown, ambiguous or does not keep its contract."""


class OtcacheNotice(UserWarning):
    """Something was adapted rather than refused: a policy mapped to another grid, for example."""


class PluginWarning(OtcacheNotice):
    """A plugin could not be loaded and was omitted; ``otcache plugins doctor`` lists it."""


#: Characters of a value, and of a reason, that a message shows.
SHOWN, REASON = 300, 1000


def expected(what: str, got: object, expected: str, advice: str = "") -> str:
    """Compose the message ``what must be EXPECTED, got GOT: ADVICE``."""
    tail = f": {advice}" if advice else "."
    return f"{shortened(what)} must be {shortened(expected)}, got {shown(got)}{tail}"


def shown(value: object) -> str:
    """Return a value as a message shows it, however large it is."""
    try:
        return shortened(repr(value), SHOWN)
    except (ValueError, RecursionError):  # more digits, or levels, than Python writes out
        return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else "a value"


def shortened(text: str, most: int = REASON) -> str:
    """Return a text without its middle if it is long, and with characters that cannot be encoded escaped."""
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]} ... {text[-half:]} ({len(text)} characters)"
    return text.encode("utf-8", "backslashreplace").decode()
