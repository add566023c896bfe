"""Contracts of planning: cost models, schedule solvers, and forecasters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.evaluator import Evaluator
from otcache_core.errors import OtcacheError, PluginError, expected
from otcache_core.problem import Displacements, Need, ScheduleProblem, Solution, check_costs
from otcache_core.schedule import Schedule, Span
from otcache_core.trajectory import Trajectory

if TYPE_CHECKING:
    from otcache_core.plugins.registry import Registry


@dataclass(frozen=True, eq=False)
class SpanCosts:
    """w(i -> j) of every span, and the evaluations it took to measure them.

    Args:
        costs: shape (N, N + 1), see :class:`~otcache_core.problem.ScheduleProblem`.
        nfe: denoiser evaluations spent beyond the recorded runs.
        samples: number of samples the costs are a mean over.
    """

    costs: NDArray[np.float64]
    nfe: int
    samples: int

    def __post_init__(self) -> None:
        check_costs(self.costs, len(self.costs))

    def applied(self, schedule: Schedule) -> Schedule:
        """Return the schedule with the forecast that these costs are of; itself if that is reuse."""
        return schedule


class CostModel(ABC):
    """Measure the cost of each span (i -> j) of skipped steps.

    Requirements: the cost of a span of length one is 0; costs are finite and >= 0 for every span the model
    covers (``inf`` beyond a span cap); the NFE are those that were spent.
    """

    @abstractmethod
    def measure(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> SpanCosts:
        """Measure all spans; called once per calibration, and may not change the trajectories.

        Args:
            trajectories: recorded full runs, one per sample, all of the same N.
            evaluator: for models that need more evaluations; its samples are the trajectories'.

        Raises:
            OtcacheError: if there is no trajectory, or an evaluator is needed and missing.
        """

    def displacements(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> Displacements:
        """Measure what skipping each span does, as vectors; arguments as in :meth:`measure`.

        Raises:
            OtcacheError: if this model measures numbers only, as most do.
        """
        raise OtcacheError(
            f"{type(self).__name__} measures numbers, not vectors: use the cost model 'displacement'."
        )


@dataclass(frozen=True)
class Abilities:
    """What a solver needs, and what it can do.

    Args:
        needs: fields of the problem without which it raises.
        exact: it returns ``Result.OPTIMAL`` for every feasible problem, as to its own objective.
        all_budgets: ``frontier`` costs about as much as ``solve`` at its largest budget.
        forecasts: its objective counts forecasts of skipped steps, not only their reuse.
    """

    needs: frozenset[Need] = frozenset()
    exact: bool = False
    all_budgets: bool = False
    forecasts: bool = False


class ScheduleSolver(ABC):
    """Choose the computed steps.

    Requirements: pure but for the problem's Evaluator; deterministic given the problem's seed and one
    process; the schedule has exactly the problem's budget and step count; ``lower_bound <=
    objective``; the needs that ``abilities`` lists are enough, and a problem that lacks one of them is an
    error. Besides these only gains, anchor, reference and spans marked ``inf`` may be used. A result is
    ``Result.OPTIMAL`` only if brute force over all schedules finds none better. An infeasible problem is
    a value (``Result.INFEASIBLE``), not an exception. INFEASIBLE means that no schedule of the budget has
    finite costs; a heuristic that finds no good schedule returns any schedule with finite costs.
    """

    @property
    def abilities(self) -> Abilities:
        """What it needs and what it can do; by default nothing.

        Override it by a class attribute, ``abilities = Abilities(...)``, or by a property if it depends on
        the settings.
        """
        return Abilities()

    @abstractmethod
    def solve(self, problem: ScheduleProblem) -> Solution:
        """Solve one problem. May be called many times, in any order.

        Raises:
            OtcacheError: if the problem lacks what this solver needs.
        """

    def frontier(self, problem: ScheduleProblem) -> list[Solution]:
        """Solve the problem at the budgets 1 .. B, smallest first; one by one unless overridden.

        Raises:
            OtcacheError: as :meth:`solve`.
        """
        return [self.solve(replace(problem, budget=b)) for b in range(1, problem.budget + 1)]


#: Outputs, the latest first, by which a sample chooses the order of its forecasts, at most.
LOOKED_AT = 3


class Ramp(NamedTuple):
    r"""How much of a higher order is added, by how smooth the outputs were: clamp(o + l c + m q, 0, 1).

    Attributes:
        offset: o.
        cosine: l, times :math:`c = \cos(v_k - v_{k_1}, v_{k_1} - v_{k_2})`; c is 0 with one earlier output.
        change: m, times :math:`q = \|v_k - v_{k_1}\| / \|v_k\|`.
    """

    offset: float
    cosine: float
    change: float

    def at(self, c: float, q: float) -> float:
        """Return clamp(o + l c + m q, 0, 1)."""
        return min(1.0, max(0.0, self.offset + self.cosine * c + self.change * q))


@dataclass(frozen=True, eq=False)
class Orders:
    r"""Forecasts of order 0 .. p of one span, between which each sample of a run chooses.

    .. math:: \hat v_t = \sum_r \Big( A^{(0)}_{t,r} + \sum_{i=1}^{p} w_i
        \big( A^{(i)}_{t,r} - A^{(i-1)}_{t,r} \big) \Big) v_{k_r}

    where w_i is what the ramp of order i (:class:`Ramp`) gives, for each sample along the first dimension.

    Args:
        tables: A of each order, each as :meth:`Forecaster.coefficients` returns it.
        ramps: of each order above the first one.
    """

    tables: tuple[NDArray[np.float64], ...]
    ramps: tuple[Ramp, ...]

    def coefficients(self, row: int, weights: Sequence[Any]) -> list[Any]:
        """Return A of one skipped step, as chosen.

        Args:
            row: of the step in the tables.
            weights: w_i of each order above the first: numbers, or arrays with one of each sample.

        Returns:
            One coefficient for each of k, k_1, ... that any order reads.
        """
        rows = np.zeros((len(self.tables), max(table.shape[1] for table in self.tables)))
        for order, table in enumerate(self.tables):
            rows[order, : table.shape[1]] = table[row]
        rises = np.diff(rows, axis=0).T.tolist()
        return [
            first + sum(rise * weight for rise, weight in zip(higher, weights, strict=True))
            for first, higher in zip(rows[0].tolist(), rises, strict=True)
        ]


class Forecaster(ABC):
    r"""A forecast that is linear in the computed outputs.

    .. math:: \hat v_t = \sum_{r=0}^{m-1} A_{t,r}\, v_{k_r}, \qquad t \in (k, j),\; k_0 = k

    so a forecaster gives a small table of numbers without seeing a tensor; the executor applies it.

    Attributes:
        branches: names of guidance branches (``Span.branch``) that it forecasts otherwise than others; none
            by default.
    """

    branches: tuple[str, ...] = ()

    @abstractmethod
    def coefficients(self, span: Span, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the table A of one span.

        Called once per span, before the run. Must be pure and may not change its arguments, and may
        not look at the grid after s_j, where the span ends.

        Args:
            span: start k, stop j, earlier computed steps (latest first) and stored weights.
            grid: s_0 .. s_N, shape (N + 1,).

        Returns:
            Array of shape (len(span.skipped), m) with 1 <= m <= 1 + len(span.history); finite.
        """

    def orders(self, span: Span, grid: NDArray[np.float64]) -> Orders | None:
        """Return forecasts between which each run chooses by its own outputs; None, by default: A alone.

        Called and restricted as :meth:`coefficients`, whose A holds where outputs cannot be looked at.
        Needs an earlier computed step.
        """
        return None


@final
class NamedForecaster(Forecaster):
    """Checks the tables of a forecaster; errors name it.

    Args:
        forecaster: whatever it raises, SystemExit too, becomes a PluginError.
        title: its name in messages, as ``'mine' of 'my-package'``.
    """

    def __init__(self, forecaster: Forecaster, title: str) -> None:
        self._forecaster, self.title = forecaster, title
        self.branches = tuple(getattr(forecaster, "branches", ()))  # some have coefficients alone

    def coefficients(self, span: Span, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the table A of one span, as :meth:`Forecaster.coefficients`.

        Raises:
            PluginError: naming the forecaster, if it gives no table of that shape.
        """
        table = self.table(span, grid)
        if isinstance(table, OtcacheError):
            raise table
        if isinstance(table, str):
            what = f"what forecaster {self.title} gives for the span ({span.start} -> {span.stop})"
            raise PluginError(expected(what, table, "a table of coefficients"))
        return table

    def table(
        self, span: Span, grid: NDArray[np.float64]
    ) -> NDArray[np.float64] | OtcacheError | str:
        """Return the table of a span, or what the forecaster did instead."""
        from otcache_core.plugins.info import ANY, reason_of

        try:
            with np.errstate(all="ignore"):
                found = self._forecaster.coefficients(span, grid.copy())
                table = np.array(found, dtype=np.float64)
        except OtcacheError as error:  # its message says what to do
            return error
        except ANY as error:
            return reason_of(error)
        return table if _fits(table, span) else f"an array of shape {table.shape}"

    def orders(self, span: Span, grid: NDArray[np.float64]) -> Orders | None:
        """Return the forecasts between which runs choose, as :meth:`Forecaster.orders`.

        Raises:
            PluginError: naming the forecaster, if they are not finite tables of the span, with a ramp for
                each above the first one.
        """
        from otcache_core.plugins.info import ANY, reason_of

        try:
            orders = getattr(self._forecaster, "orders", None)
            found: Orders | None = None if orders is None else orders(span, grid.copy())
            sound = found is None or _sound(found, span)
        except ANY as error:
            reason = reason_of(error)
            raise PluginError(f"forecaster {self.title} gives no orders: {reason}") from error
        if not sound:
            what = (
                f"the orders of forecaster {self.title} for the span ({span.start} -> {span.stop})"
            )
            wanted = "finite tables of the span after an earlier step, and a ramp for each but one"
            raise PluginError(expected(what, found, wanted))
        return found


def _fits(table: NDArray[np.float64], span: Span) -> bool:
    fits = table.ndim == 2 and len(table) == len(span.skipped)
    return fits and 1 <= table.shape[1] <= 1 + len(span.history)


def _sound(orders: Orders, span: Span) -> bool:
    finite = all(_fits(table, span) and np.isfinite(table).all() for table in orders.tables)
    counted = len(orders.tables) == 1 + len(orders.ramps) > 1 and len(span.history) > 0
    return finite and counted and bool(np.isfinite(np.array(orders.ramps)).all())


def forecaster_of(registry: Registry, name: str) -> NamedForecaster:
    """Make the forecaster of a name.

    Raises:
        PluginError: naming it and its distribution, if there is none of this name, or it cannot be made.
    """
    from otcache_core.plugins.discovery import is_own
    from otcache_core.plugins.info import ANY, reason_of

    distribution, _, short = registry.resolve("forecasters", name).rpartition("/")
    title = repr(short) if is_own(distribution) else f"{short!r} of {distribution!r}"
    try:
        made = registry.create("forecasters", f"{distribution}/{short}")
    except ANY as error:
        reason = str(error) if isinstance(error, OtcacheError) else reason_of(error)
        raise PluginError(f"forecaster {title} cannot be made: {reason}") from error
    return NamedForecaster(made, title)
