"""Numbers as users give them: of Python, NumPy or torch, one or a row of them, and nothing else."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Set
from itertools import islice
from typing import Any, SupportsFloat

from otcache_core.errors import OtcacheError, expected

#: Most entries of a row: a longer iterator may be endless.
MOST = 1_000_000
#: What conversions to a number raise; a tensor's raise RuntimeError.
_REFUSALS = (TypeError, ValueError, ArithmeticError, RuntimeError)


def integer(
    name: str,
    value: object,
    low: int | None = None,
    high: int | None = None,
    *,
    advice: str = "",
    kind: type[OtcacheError] = OtcacheError,
) -> int:
    """Return a whole number as an int.

    Takes an int, a NumPy integer, an array or a tensor of one integer. Booleans and floats are refused, 12.0
    too: a count that is a float is often a mistake.

    Args:
        name: of the argument, for the message.
        value: what was given.
        low: least value; None for any.
        high: largest value; None for any.
        advice: what to do, for the message.
        kind: of the error.

    Raises:
        OtcacheError: of the kind, if the value is no integer or out of range.

    Examples:
        >>> integer("budget", 3, 1, 12)
        3
        >>> integer("n", 3.0)
        Traceback (most recent call last):
        otcache_core.errors.OtcacheError: n must be an integer, got 3.0: write 3, without a point.
    """
    wanted = _range("an integer", low, high)
    try:
        number = None if is_truth(value) else int(operator.index(value))  # type: ignore[arg-type]  # checked
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several
        number = None
    if number is None:
        raise kind(expected(name, _short(value), wanted, _whole(value, low, high) or advice))
    if (low is not None and number < low) or (high is not None and number > high):
        raise kind(expected(name, value, wanted, advice))
    return number


def integers(
    name: str,
    values: object,
    low: int | None = None,
    high: int | None = None,
    *,
    kind: type[OtcacheError] = OtcacheError,
) -> list[int]:
    """Return a row of whole numbers as ints; a row is what :func:`reals` takes.

    Raises:
        OtcacheError: of the kind, if it is no row, or as :func:`integer` for one entry.

    Examples:
        >>> integers("budgets", range(3, 5), 1, 12)
        [3, 4]
    """
    try:
        entries = _entries(values)
    except _REFUSALS as error:
        raise kind(expected(name, _short(values), "a row of integers")) from error
    return [integer(f"{name}[{k}]", x, low, high, kind=kind) for k, x in enumerate(entries)]


def reals(name: str, values: object, *, kind: type[OtcacheError] = OtcacheError) -> list[float]:
    """Return a row of numbers as floats.

    Takes ordered rows: lists, tuples, ranges, iterators, arrays and tensors of one dimension, of any type and
    on any device.

    Args:
        name: of the argument, for the message.
        values: what was given.
        kind: of the error.

    Raises:
        OtcacheError: of the kind, if it is no row, or an entry is no real number.

    Examples:
        >>> reals("grid", range(3, 0, -1))
        [3.0, 2.0, 1.0]
    """
    try:
        return [_real(entry) for entry in _entries(values)]
    except _REFUSALS as error:
        raise kind(expected(name, _short(values), "a row of numbers")) from error


def _entries(values: object) -> list[Any]:
    """Return the entries of a row, a million at most: an iterator may be endless."""
    if hasattr(values, "detach"):  # a tensor; float() of each entry would synchronize each time
        tensor: Any = values
        values = tensor.detach().cpu().tolist()
    ordered = isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping, Set))
    if not ordered or getattr(values, "ndim", 1) != 1:
        raise TypeError
    entries = list(islice(values, MOST + 1))  # type: ignore[call-overload]  # checked
    if len(entries) > MOST:
        raise ValueError
    return entries


def _real(entry: object) -> float:
    if isinstance(entry, (str, bytes, bytearray)) or not isinstance(entry, SupportsFloat):
        raise TypeError
    if _is_complex(entry):
        raise TypeError
    return float(entry)


def _range(what: str, low: int | None, high: int | None) -> str:
    if low is not None and high is not None:
        return f"{what} between {low} and {high}"
    if low is not None:
        return f"{what} of at least {low}"
    return what if high is None else f"{what} of at most {high}"


def is_truth(value: object) -> bool:
    """Return whether a value is a boolean of Python, NumPy or torch."""
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))


def _is_complex(value: object) -> bool:
    """Return whether float() would drop an imaginary part."""
    return "complex" in str(getattr(value, "dtype", ""))


def _whole(value: Any, low: int | None, high: int | None) -> str:
    """Return the advice to write a float as the integer that it is; "" if that is no valid value."""
    try:
        number = math.nan if is_truth(value) or bool(getattr(value, "ndim", 0)) else _real(value)
    except _REFUSALS:
        return ""
    inside = (low is None or number >= low) and (high is None or number <= high)
    return f"write {int(number)}, without a point." if inside and number.is_integer() else ""


def _short(values: object) -> object:
    """Return what was given, or its type if that would be long."""
    try:
        text = repr(values)
    except (ValueError, RecursionError):  # more digits, or levels, than Python writes out
        return type(values).__name__
    return type(values).__name__ if len(text) > 200 or "\n" in text else values
