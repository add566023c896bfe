"""Convert and check numbers in arguments: Python's, NumPy's or torch's, one or a sequence of them."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Set
from itertools import islice
from typing import Any, SupportsFloat

from otcache_core.errors import OtcacheError, expected

#: Largest number of entries of a sequence: a longer iterator may be endless.
MOST = 1_000_000
#: What failed conversions to a number raise; those of tensors raise RuntimeError.
_CONVERSION_ERRORS = (TypeError, ValueError, ArithmeticError, RuntimeError)


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
        name: name of the argument, for the message.
        value: what was given.
        low: smallest valid value; None for no bound.
        high: largest valid value; None for no bound.
        advice: what to do, for the message.
        kind: class of the error to raise.

    Raises:
        OtcacheError: of class ``kind``, if the value is not an integer or is out of range.

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
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        number = None
    if number is None:
        advice = _advice_for_float(value, low, high) or advice
        raise kind(expected(name, _value_or_type(value), wanted, advice))
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
    """Return a sequence of whole numbers, of any type that :func:`reals` takes, as ints.

    Raises:
        OtcacheError: of class ``kind``, if it is no such sequence, or an entry is not what
            :func:`integer` takes.

    Examples:
        >>> integers("budgets", range(3, 5), 1, 12)
        [3, 4]
    """
    try:
        entries = _entries(values)
    except _CONVERSION_ERRORS as error:
        raise kind(expected(name, _value_or_type(values), "a row of integers")) from error
    return [integer(f"{name}[{k}]", x, low, high, kind=kind) for k, x in enumerate(entries)]


def reals(name: str, values: object, *, kind: type[OtcacheError] = OtcacheError) -> list[float]:
    """Return a sequence of numbers (called a row in messages) as floats.

    Takes what has an order: lists, tuples, ranges, iterators, and one-dimensional arrays and tensors of any
    dtype and on any device.

    Args:
        name: name of the argument, for the message.
        values: what was given.
        kind: class of the error to raise.

    Raises:
        OtcacheError: of class ``kind``, if it is no such sequence, or an entry is not a real number.

    Examples:
        >>> reals("grid", range(3, 0, -1))
        [3.0, 2.0, 1.0]
    """
    try:
        return [_real(entry) for entry in _entries(values)]
    except _CONVERSION_ERRORS as error:
        raise kind(expected(name, _value_or_type(values), "a row of numbers")) from error


def _entries(values: object) -> list[Any]:
    """Return the entries as a list; raise one of ``_CONVERSION_ERRORS`` if it is unordered or too long."""
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
    is_complex = "complex" in str(getattr(entry, "dtype", ""))  # float() drops an imaginary part
    text = isinstance(entry, (str, bytes, bytearray))
    if text or is_complex or not isinstance(entry, SupportsFloat):
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


def _advice_for_float(value: Any, low: int | None, high: int | None) -> str:
    """Return advice to write 3.0 as 3, if the value is such a float and in range; else ""."""
    try:
        number = math.nan if is_truth(value) or bool(getattr(value, "ndim", 0)) else _real(value)
    except _CONVERSION_ERRORS:
        return ""
    inside = (low is None or number >= low) and (high is None or number <= high)
    return f"write {int(number)}, without a point." if inside and number.is_integer() else ""


def _value_or_type(values: object) -> object:
    """Return the value, or its type's name if its repr would be long."""
    try:
        text = repr(values)
    except (ValueError, RecursionError):  # more digits, or levels, than Python writes out
        return type(values).__name__
    return type(values).__name__ if len(text) > 200 or "\n" in text else values
