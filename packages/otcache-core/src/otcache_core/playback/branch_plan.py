"""The plan of one guidance branch: what replaces each skipped step, and how its order is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np

from otcache_core.contracts.planning import Ramp
from otcache_core.errors import ScheduleError, expected
from otcache_core.schedule import MAX_WEIGHT

#: (computed step k, coefficient A_{t,k}) of each output that a forecast reads, newest first.
Terms = tuple[tuple[int, float], ...]


class OrderChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    r"""How each sample chooses the order of the forecasts that follow a computed step.

    :math:`\operatorname{clamp}(o_i + l_i\, c + m_i\, q, 0, 1)` of each order above the first, where
    :math:`c = \cos(v_k - v_{k_1}, v_{k_1} - v_{k_2})`, 0 of two outputs, and
    :math:`q = \|v_k - v_{k_1}\| / \|v_k\|`.

    Args:
        steps: k, k_1 and perhaps k_2: computed steps, latest first.
        ramps: (o_i, l_i, m_i).

    Raises:
        ScheduleError: if there are not two or three steps, latest first, or no finite ramps.
    """

    steps: tuple[int, ...]
    ramps: tuple[Ramp, ...]

    def __post_init__(self) -> None:
        falling = list(self.steps) == sorted(set(self.steps), reverse=True)
        if not (falling and len(self.steps) in (2, 3)):
            raise ScheduleError(
                expected("order_choice.steps", self.steps, "two or three, latest first")
            )
        if not self.ramps or not np.isfinite(np.array(self.ramps)).all():
            raise ScheduleError(expected("order_choice.ramps", self.ramps, "finite numbers"))


class BranchPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    r"""The plan of one guidance branch.

    Where ``orders`` has forecasts for a step, of order 0 to p, each sample adds to the first one

    .. math:: \sum_{i=1}^{p} w_i\, (\text{forecast of order } i - \text{forecast of order } i - 1)

    with the w_i of the step's span, which ``order_choices`` gives.

    Args:
        forecasts: by step, None to compute it, or the terms of its forecast.
        needed_until: by step, the last step at which its output is read; -1 if it is not.
        orders: by step, the terms of the forecasts between which samples choose; empty where there is no
            choice. No step has one if the whole field is empty.
        order_choices: by step, how the forecasts after it are chosen, if it is computed.

    Raises:
        ScheduleError: if a forecast has no term, reads a step that is not computed before it, or a
            coefficient is not finite or above 1e30 in size; if ``needed_until`` says otherwise than the
            forecasts; if the choice of a step's order is missing, or is of another number of orders.
    """

    forecasts: tuple[Terms | None, ...]
    needed_until: tuple[int, ...]
    orders: tuple[tuple[Terms, ...], ...] = ()
    order_choices: tuple[OrderChoice | None, ...] = ()

    def __post_init__(self) -> None:
        if self.orders or self.order_choices:
            self._check_choices()
        for step, terms in enumerate(self.forecasts):
            for one in () if terms is None else (terms, *self.orders_of(step)):
                self._check(step, one)
        last = self._last_uses()
        if self.needed_until != last:
            wanted = f"{last}, as its forecasts read them"
            raise ScheduleError(expected("needed_until", self.needed_until, wanted))

    def _check_choices(self) -> None:
        if not len(self.orders) == len(self.order_choices) == len(self.forecasts):
            got = f"{len(self.orders)} and {len(self.order_choices)} entries"
            wanted = f"{len(self.forecasts)}, or none"
            raise ScheduleError(expected("orders and order_choices", got, wanted))
        choice = None
        for step, orders in enumerate(self.orders):
            if self.forecasts[step] is None:
                choice = self.order_choices[step]
            fits = not orders or (choice is not None and len(orders) == 1 + len(choice.ramps))
            if not fits or (orders and self.forecasts[step] is None):
                wanted = "those of a forecast, one more than the ramps of its span's choice"
                raise ScheduleError(expected(f"the orders of step {step}", orders, wanted))
            own = self.order_choices[step]
            if own and (own.steps[0] != step or any(self.forecasts[k] for k in own.steps)):
                wanted = "computed steps, and this one the latest"
                raise ScheduleError(
                    expected(f"order_choices[{step}].steps", list(own.steps), wanted)
                )

    def _check(self, step: int, terms: Terms) -> None:
        sound = all(
            0 <= k < step and self.forecasts[k] is None and abs(a) <= MAX_WEIGHT for k, a in terms
        )
        if not terms or not sound:
            wanted = (
                f"pairs of a computed step before it and a coefficient up to {MAX_WEIGHT:g} in size"
            )
            raise ScheduleError(expected(f"the forecast of step {step}", terms, wanted))

    @classmethod
    def of(
        cls,
        forecasts: Sequence[Terms | None],
        orders: Sequence[tuple[Terms, ...]] = (),
        order_choices: Sequence[OrderChoice | None] = (),
    ) -> BranchPlan:
        """Make the plan of these forecasts."""
        last = _last_uses(forecasts, orders, order_choices)
        return cls(tuple(forecasts), last, tuple(orders), tuple(order_choices))

    def _last_uses(self) -> tuple[int, ...]:
        return _last_uses(self.forecasts, self.orders, self.order_choices)

    def orders_of(self, step: int) -> tuple[Terms, ...]:
        """Return the forecasts between which samples choose at a step; none if it has one alone."""
        return self.orders[step] if self.orders else ()

    def rises(self, step: int) -> dict[tuple[int, int], float]:
        """Return by how much each order above the first, i = 0 .., adds to a coefficient, by (k, i)."""
        rows = [dict(terms) for terms in self.orders_of(step)]
        steps = sorted({k for row in rows for k in row}, reverse=True)
        pairs = list(enumerate(pairwise(rows)))
        rises = {
            (k, i): upper.get(k, 0.0) - lower.get(k, 0.0)
            for k in steps
            for i, (lower, upper) in pairs
        }
        return {key: rise for key, rise in rises.items() if rise}

    def reads(self, step: int) -> list[int]:
        """Return the computed steps that a forecast needs, those that choose its order among them."""
        rows = (self.forecasts[step] or (), *self.orders_of(step))
        found = {k for terms in rows for k, _ in terms}
        if self.orders_of(step):
            start = max(k for k in self.computed if k < step)
            choice = self.order_choices[start]
            found.update(choice.steps if choice else ())
        return sorted(found, reverse=True)

    @property
    def computed(self) -> tuple[int, ...]:
        """The steps that are computed."""
        return tuple(t for t, terms in enumerate(self.forecasts) if terms is None)


def _last_uses(
    forecasts: Sequence[Terms | None],
    orders: Sequence[tuple[Terms, ...]],
    order_choices: Sequence[OrderChoice | None],
) -> tuple[int, ...]:
    last = [-1] * len(forecasts)
    reads = [(step, k) for step, terms in enumerate(forecasts) for k, _ in terms or ()]
    reads += [(step, k) for step, rows in enumerate(orders) for terms in rows for k, _ in terms]
    reads += [(step, k) for step, one in enumerate(order_choices) if one for k in one.steps[1:]]
    for step, k in reads:
        if 0 <= k < len(last):
            last[k] = max(last[k], step)
    return tuple(last)
