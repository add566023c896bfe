"""Which setting of a knob stands at which budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from otcache.results import Missing

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
