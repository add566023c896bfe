"""What a baseline answers, once that is what it has to be; and which of its settings stands for a budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from otcache.comparison.folder import Plan, Run
from otcache.report.results import Missing
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


#: A setting stands at a budget if its evaluations are within this factor of it.
WITHIN = 1.25


def match(
    method: str, costs: Mapping[str, float], budgets: Sequence[int]
) -> tuple[dict[int, str], tuple[Missing, ...]]:
    r"""The setting nearest to each budget, in evaluations.

    .. math:: \arg\min_s |\log(\mathrm{NFE}_s / B)|, \qquad
        B / 1.25 \le \mathrm{NFE}_s \le 1.25 B

    One setting may stand at two budgets. Where no setting is near any budget, the cheapest one stands at
    a budget of its own, its evaluations rounded, so that the method is seen all the same.

    Args:
        method: for the reasons.
        costs: label of a setting to its evaluations on calibration samples.
        budgets: B of the comparison.

    Returns:
        Budget to label, and a reason for each budget that has none.
    """
    usable = {label: nfe for label, nfe in costs.items() if math.isfinite(nfe) and nfe > 0}
    if not usable:
        return {}, (Missing(method, None, "no setting of it could be counted"),)
    found: dict[int, str] = {}
    missing = []
    for budget in budgets:
        label = min(usable, key=lambda name: (abs(math.log(usable[name] / budget)), usable[name]))
        if 1 / WITHIN <= usable[label] / budget <= WITHIN:
            found[budget] = label
        else:
            reason = f"the nearest setting, {label}, takes {usable[label]:.3g} evaluations"
            missing.append(Missing(method, budget, reason))
    if not found:
        cheapest = min(usable, key=lambda name: usable[name])
        found[max(1, round(usable[cheapest]))] = cheapest
    return found, tuple(missing)
