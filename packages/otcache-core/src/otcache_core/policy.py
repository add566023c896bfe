"""A policy: a schedule for every budget, and the facts that bind it to a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import MismatchError, ScheduleError, expected
from otcache_core.interpolation import (
    check_monotone,
    rises,
    run_of,
    schedule_at,
    schedule_mapped,
)
from otcache_core.json_files import load_json, save_json
from otcache_core.notices import notify
from otcache_core.provenance import Provenance, same_grid
from otcache_core.schedule import Schedule, check_budget

__all__ = ["Policy", "Provenance"]

FORMAT, VERSION = "otcache-policy", 2


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    r"""Schedules at a few budgets, and by transport between them at every other.

    The nodes are the rungs of the ladder, and anchor and reference where their budget lies outside
    the ladder's. On a node the schedule is the node. Between two fitted neighbours both parts are
    interpolated with lam = (1/B_a - 1/B)/(1/B_a - 1/B_r): the steps by displacement
    (:mod:`otcache_core.warp`), the forecast weights by their strengths theta
    (:mod:`otcache_core.forecasters.strength`), linear forecasts being of strength 1. Beside a node
    that reuses there is reuse, since it won where forecasts fail; between two rules without
    strengths, too; and then uniform steps of a node that was not fitted hold as well. Beyond the
    lowest and the highest node lam is clamped. B = 1 is {0} by reuse, B = N computes everything.
    Steps that single branches skip in addition are kept on the nodes only.

    Args:
        anchor: schedule at an extreme budget.
        reference: schedule at a conservative budget.
        provenance: where they come from; gives N and the grid.
        ladder: fitted schedules of distinct budgets, lowest first.
        geometry: the ground coordinate of the transport; ``index`` is i/N.
        certificate: what is proven about the reference, in words.
        solver: who chose the steps, where nothing of them was measured on the pipeline; "" of a policy
            whose nodes were.

    Raises:
        OtcacheError: if step counts or the order of the ladder disagree.
    """

    anchor: Schedule
    reference: Schedule
    provenance: Provenance
    ladder: tuple[Schedule, ...] = ()
    geometry: str = "index"
    certificate: str = ""
    solver: str = ""

    def __post_init__(self) -> None:
        n = self.provenance.num_steps
        parts = {"anchor": self.anchor, "reference": self.reference}
        parts |= {f"ladder[{r}]": rung for r, rung in enumerate(self.ladder)}
        for name, schedule in parts.items():
            if schedule.num_steps != n:
                raise ScheduleError(expected(f"{name}.num_steps", schedule.num_steps, str(n)))
        budgets = [rung.budget for rung in self.ladder]
        if budgets != sorted(set(budgets)):
            raise ScheduleError(expected("ladder budgets", budgets, "distinct and increasing"))
        if self.geometry != "index":
            raise ScheduleError(expected("geometry", self.geometry, "'index'"))

    @property
    def num_steps(self) -> int:
        """N."""
        return self.provenance.num_steps

    def schedule(
        self,
        budget: int,
        num_steps: int | None = None,
        grid: Sequence[float] | NDArray[np.float64] | None = None,
        *,
        strict: bool = False,
    ) -> Schedule:
        """The schedule of a budget; the same call gives the same object, in well under 1 ms.

        Args:
            budget: B, in 1..N of the policy or the run, whichever is larger.
            num_steps: N of the run, the policy's by default (or as the grid says).
            grid: s_0 .. s_N of the run, N + 1 numbers of any kind; the policy's by default. Computed
                steps are carried over by noise level where both grids are known, else by position.
                A run of no more steps than the budget computes them all, and so does one that goes
                the other way, as an inversion does.
            strict: refuse another step count or grid instead of mapping with a notice.

        Raises:
            ScheduleError: if the budget is not such an integer, or the grid is no grid.
            MismatchError: under strict, if step count or grid are not the policy's.
        """
        own = self.provenance.grid
        n, points = run_of(num_steps, grid, self.num_steps)
        budget = check_budget(budget, max(n, self.num_steps))
        if n == self.num_steps and (not points or not own or same_grid(points, own)):
            return schedule_at(self, budget)
        check_monotone(points)
        difference = (
            f"the run has {n} steps on its own grid, the policy {self.num_steps} on its own"
        )
        if n != self.num_steps:
            steps = "1 step" if n == 1 else f"{n} steps"
            difference = f"the run has {steps}, the policy was measured on {self.num_steps}"
        if strict:
            raise MismatchError(f"{difference}: calibrate again, or leave strict off to map it.")
        reason = _why_full(budget, n, points, own)
        notify(f"{difference}{reason or ': the schedule is mapped.'}")
        return Schedule.full(n) if reason else schedule_mapped(self, budget, n, points)

    def check(self, provenance: Mapping[str, Any], strict: bool = False) -> list[str]:
        """Compare with the pipeline at hand: see :meth:`Provenance.check`.

        Raises:
            MismatchError: if the model or prediction type differs; under strict for any difference.
        """
        return self.provenance.check(provenance, strict)

    def save(self, path: str | Path) -> None:
        """Write the policy file, whole or not at all.

        Raises:
            FileError: if it cannot be written.
        """
        save_json(path, FORMAT, VERSION, self)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a policy file.

        Raises:
            FileError: if it is missing, truncated, of another version or holds a bad value.
        """
        return load_json(path, FORMAT, VERSION, cls)


def _why_full(budget: int, n: int, points: tuple[float, ...], own: tuple[float, ...]) -> str:
    """Say why a run computes every step; "" where it follows the policy."""
    if budget >= n:
        return f", and the budget is {budget}: every step is computed."
    if points and own and rises(points) != rises(own):
        return (
            ", and its noise levels go the other way, as in an inversion: every step is computed."
        )
    return ""
