"""What a baseline answers, once it is what its contract says: others read it from files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from otcache.arena.folder import Plan, Run
from otcache_core import OtcacheError
from otcache_core.contracts import BaselineSetting
from otcache_core.errors import expected
from otcache_core.schedule import check_num_steps

T = TypeVar("T", Plan, Run)


def said(reason: object) -> str:
    """Return why a baseline does not support a target, "" where it does.

    Raises:
        OtcacheError: if that is no text.
    """
    if not isinstance(reason, str):
        wanted = "a text, '' where it supports the target"
        raise OtcacheError(expected("what supports() gives", reason, wanted))
    return reason


def facts(measured: object) -> dict[str, Any]:
    """Return what a baseline calibrated.

    Raises:
        OtcacheError: if that is no mapping of names, or its price is no number of evaluations.
    """
    if not isinstance(measured, Mapping) or not all(isinstance(name, str) for name in measured):
        raise OtcacheError(expected("what calibrate() gives", measured, "plain data by name"))
    price = measured.get("nfe", 0)
    if price is not None and (not isinstance(price, int) or isinstance(price, bool) or price < 0):
        wanted = "a number of evaluations, or None"
        raise OtcacheError(expected("'nfe' of what calibrate() gives", price, wanted))
    return dict(measured)


def settings_of(made: object, count: int | None) -> list[BaselineSetting]:
    """Return what a baseline can be set to.

    Args:
        made: what ``settings`` gave.
        count: of budgets, where there is one setting for each.

    Raises:
        OtcacheError: if these are no settings, another number of them, or one label stands for two.
    """
    found = list(made) if isinstance(made, Iterable) else None
    if found is None or not all(isinstance(one, BaselineSetting) for one in found):
        raise OtcacheError(expected("what settings() gives", made, "a list of BaselineSetting"))
    if count is not None and len(found) != count:
        raise OtcacheError(expected("settings", len(found), f"{count}, one a budget"))
    known: dict[str, BaselineSetting] = {}
    for one in found:
        if not isinstance(one.label, str) or not one.label:
            raise OtcacheError(expected("the label of a setting", one.label, "a short text"))
        check_num_steps(one.num_steps)
        if known.setdefault(one.label, one) != one:
            raise OtcacheError(expected("labels of settings", one.label, "distinct"))
    return found


def as_read(kept: T) -> T:
    """Return a plan or a run as it is read from its file, by whoever is not this process.

    Raises:
        OtcacheError: if it could not be.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(kept), type(kept))
    except (msgspec.ValidationError, TypeError, OverflowError) as error:
        raise OtcacheError(f"what it gives cannot be kept: {error}") from error
