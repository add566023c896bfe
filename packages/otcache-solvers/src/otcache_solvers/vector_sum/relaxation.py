"""Lower bounds of vector sums: the convex relaxation, and projections onto directions."""

from __future__ import annotations

import enum
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.errors import expected
from otcache_solvers.needs import check_least, library
from otcache_solvers.vector_sum.span_vectors import SpanVectors

Floats = NDArray[np.float64]
#: A QP solver's flow counts as solved if the bound it proves is this part of its own objective.
CLOSE = 0.99


class Closure(enum.Enum):
    """How a relaxation ended; the value is advice to the user."""

    SOLVED = "The relaxation is solved to its tolerance."
    LOOSE = (
        "The relaxation stopped early; its bound is valid but could be higher. "
        "Try more iterations, or another `solver`."
    )
    FAILED = (
        "The relaxation gave no flow, so there is no bound from it. "
        "Try another `solver`, or `MinNormPoint()`."
    )


@dataclass(frozen=True, eq=False)
class Relaxed:
    """Outcome of a relaxation.

    Args:
        name: of the method.
        closure: how it ended.
        lower_bound: no path of the budget has a smaller objective; 0 if it failed. Exact for the
            direction, whatever the accuracy of the method that found it.
        upper: objective of the flow found; the relaxation's optimum lies between the two.
        direction: unit vector along the flow's vector sum, shape (r,); None if it failed.
        detail: what the underlying solver said.
    """

    name: str
    closure: Closure
    lower_bound: float
    upper: float
    direction: Floats | None
    detail: str = ""


class Relaxation(ABC):
    r"""Bound the vector sum of paths by that of fractional flows.

    .. math:: \min_{f_1, \dots, f_B \ge 0} \Big\| \sum_{b} \sum_e f_{b,e}\, d_e \Big\|^2
        \quad \text{one unit from } (0, 0) \text{ to } (B, N) \text{ of the layered graph}

    Properties: the lower bound is proven by a direction u = y/||y|| with y the flow's vector sum: along u
    the least path is found exactly by dynamic programming, and its square is the bound.
    """

    @abstractmethod
    def solve(self, spans: SpanVectors, budget: int) -> Relaxed:
        """Solve for a budget that has a path."""


@final
@dataclass(frozen=True)
class MinNormPoint(Relaxation):
    """Wolfe's nearest point with the dynamic program as its oracle: milliseconds, no QP solver.

    Args:
        tolerance: relative, of the norm.
        max_iterations: at least 1.

    Raises:
        OtcacheError: if an argument is out of range.
    """

    tolerance: float = 1e-4
    max_iterations: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise OtcacheError(expected("MinNormPoint.tolerance", self.tolerance, "in (0, 1)"))
        check_least(self, max_iterations=1)

    def solve(self, spans: SpanVectors, budget: int) -> Relaxed:
        """See :class:`Relaxation`."""
        point = nearest(spans, budget, tolerance=self.tolerance, max_iterations=self.max_iterations)
        closure = Closure.SOLVED if point.closed else Closure.LOOSE
        bound = max(0.0, point.bound) ** 2
        return Relaxed("min-norm point", closure, bound, point.norm**2, point.direction)


@final
@dataclass(frozen=True)
class QuadraticProgram(Relaxation):
    """A convex QP through cvxpy.

    Args:
        solver: a QP solver cvxpy knows, ``CLARABEL`` or ``OSQP`` for example.
        options: passed to it, as pairs (name, value), such as ``(("max_iter", 50),)``.
    """

    solver: str = "CLARABEL"
    options: tuple[tuple[str, Any], ...] = ()

    def solve(self, spans: SpanVectors, budget: int) -> Relaxed:
        """See :class:`Relaxation`.

        Raises:
            OtcacheError: if cvxpy is not installed or does not know the solver.
        """
        y, status = self._vector_sum(spans, budget)
        name = f"QP by {self.solver}"
        norm = 0.0 if y is None else float(np.linalg.norm(y))
        if y is None or not np.isfinite(norm):
            return Relaxed(name, Closure.FAILED, 0.0, np.inf, None, status)
        direction = y / norm if norm > 0 else np.eye(1, spans.rank)[0]
        table = Projections.of(spans, direction[None], budget)
        bound = max(0.0, float(table.rest[budget, 0, 0])) ** 2
        met = status == "optimal" and bound >= CLOSE * norm**2 - budget * spans.rounding
        closure = Closure.SOLVED if met else Closure.LOOSE
        return Relaxed(name, closure, bound, max(norm**2, bound), direction, status)

    def _vector_sum(self, spans: SpanVectors, budget: int) -> tuple[Floats | None, str]:
        """Return the vector sum of the flow, None without one; and the solver's status."""
        cp = library("cvxpy", "a relaxation by QuadraticProgram", "use MinNormPoint()")
        if self.solver not in cp.installed_solvers():
            wanted = f"one of {', '.join(cp.installed_solvers())}"
            raise OtcacheError(expected("QuadraticProgram.solver", self.solver, wanted))
        start, stop = np.nonzero(spans.usable)
        vectors = spans.vectors[start, stop]
        scale = float(np.abs(vectors).max(initial=0.0)) or 1.0
        flow = cp.Variable((len(start), budget), nonneg=True)
        total = cp.Variable(max(1, spans.rank))
        n = spans.num_steps
        into = (stop[None] == np.arange(n + 1)[:, None]).astype(float)
        out_of = (start[None] == np.arange(n + 1)[:, None]).astype(float)
        source, sink = np.eye(n + 1)[0], np.eye(n + 1)[n]
        kept = [out_of @ flow[:, 0] == source, into @ flow[:, budget - 1] == sink]
        kept += [out_of @ flow[:, b] == into @ flow[:, b - 1] for b in range(1, budget)]
        if spans.rank:
            kept.append(total == (vectors.T / scale) @ cp.sum(flow, axis=1))
        problem = cp.Problem(cp.Minimize(cp.sum_squares(total)), kept)
        try:
            with warnings.catch_warnings():  # an inaccurate solution is `Closure.LOOSE` here
                warnings.simplefilter("ignore", UserWarning)
                problem.solve(solver=self.solver, **dict(self.options))
        except cp.SolverError as error:
            return None, str(error).splitlines()[0]
        if flow.value is None:
            return None, str(problem.status)
        return vectors.T @ np.asarray(flow.value).sum(axis=1), str(problem.status)


Ints = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Projections:
    r"""Least projection of what may still come, for each of several directions.

    .. math:: h_u(b, j) = \min_{\text{paths of } b \text{ spans from } j \text{ to } N}
        \sum_e \langle u, d_e \rangle, \qquad
        \min_{\text{completions}} \| p + \textstyle\sum_e d_e \|
        \ge \max_u\, \langle u, p \rangle + h_u(b, j), \quad \|u\| = 1

    by dynamic programming, O(B N^2) a direction. The best direction gives the distance from -p to
    the convex hull of all completions (Sion's minimax theorem), the bound of the relaxation over
    the layered flow polytope.

    Args:
        directions: u, unit vectors, shape (U, r).
        spans: <u, d_e>, infinite where there is no span, shape (N, N + 1, U).
        rest: h_u(b, j), infinite where there is no path, shape (B + 1, N + 1, U).
    """

    directions: Floats
    spans: Floats
    rest: Floats

    @classmethod
    def of(cls, spans: SpanVectors, directions: Floats, budget: int) -> Projections:
        """Compute the tables for up to ``budget`` spans."""
        along = np.where(spans.usable[:, :, None], spans.vectors @ directions.T, np.inf)
        n = spans.num_steps
        rest = np.full((budget + 1, n + 1, len(directions)), np.inf)
        rest[0, n] = 0.0
        for b in range(1, budget + 1):
            rest[b, :n] = (along + rest[b - 1]).min(axis=1)
        return cls(directions, along, rest)

    def path(self, budget: int, start: int) -> tuple[int, ...]:
        """Find the path of ``budget`` spans from ``start`` that has the least first projection."""
        nodes = [start]
        for b in range(budget, 0, -1):
            through = self.spans[nodes[-1], :, 0] + self.rest[b - 1, :, 0]
            nodes.append(int(through.argmin()))
        return tuple(nodes)


@dataclass(frozen=True, eq=False)
class Nearest:
    """The point of the convex hull of p + all completions that is nearest to 0.

    Args:
        bound: at most the norm of every point of the hull.
        direction: unit vector that proves the bound, shape (r,).
        norm: of the point found; the true one lies between ``bound`` and ``norm``.
        closed: whether the two agree to the tolerance asked for.
    """

    bound: float
    direction: Floats
    norm: float
    closed: bool


def nearest(
    spans: SpanVectors,
    budget: int,
    start: int = 0,
    partial: Floats | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 200,
) -> Nearest:
    r"""Solve the convex relaxation by fully corrective Frank-Wolfe, without a QP solver.

    .. math:: \min_{y \in \operatorname{conv}\{p + \sum_e d_e\}} \|y\|

    Each iteration adds the path that is best along y, and takes the nearest point of the hull of
    the paths so far by non-negative least squares. Every iterate proves a bound of its own.

    References:
        Wolfe, Finding the nearest point in a polytope, Mathematical Programming 11, 1976.

    Args:
        spans: the vectors.
        budget: spans still to come.
        start: node the completions start from; a path must exist.
        partial: p, the sum so far, shape (r,); 0 by default.
        tolerance: relative, of the norm.
        max_iterations: at least 1.
    """
    p = np.zeros(spans.rank) if partial is None else partial
    direction = _unit(p)
    best, best_direction, norm = -np.inf, direction, np.inf
    atoms = np.zeros((0, spans.rank))
    for _ in range(max_iterations):
        table = Projections.of(spans, direction[None], budget)
        bound = float(direction @ p + table.rest[budget, start, 0])
        if bound > best:
            best, best_direction = bound, direction
        atoms = np.vstack([atoms, p + path_sum(spans, table.path(budget, start))])
        weights = _nearest_weights(atoms)
        if weights is None:
            break
        atoms, y = atoms[weights > 0], weights @ atoms
        norm = float(np.linalg.norm(y))
        if norm**2 <= budget * spans.rounding or best >= norm * (1 - tolerance):
            return Nearest(best, best_direction, norm, True)
        direction = y / norm
    return Nearest(best, best_direction, norm, False)


def path_sum(spans: SpanVectors, nodes: tuple[int, ...]) -> Floats:
    """Sum d over the spans between these nodes, shape (r,)."""
    return np.asarray(spans.vectors[list(nodes[:-1]), list(nodes[1:])].sum(axis=0))


def _unit(p: Floats) -> Floats:
    norm = float(np.linalg.norm(p))
    return p / norm if norm > 0 else np.full(len(p), 1 / np.sqrt(max(1, len(p))))


def _nearest_weights(atoms: Floats) -> Floats | None:
    """Compute convex weights of the point of conv(atoms) nearest to 0; None if scipy gives up.

    min ||A'w||^2 + (1'w - 1)^2 over w >= 0: its solution is t times convex weights of the nearest
    point, since for w = t m the best t depends on ||A'm|| alone and the value grows with it.
    """
    nnls = library("scipy.optimize", "a bound by MinNormPoint").nnls
    scale = float(np.abs(atoms).max(initial=0.0)) or 1.0
    rows = np.vstack([atoms.T / scale, np.ones(len(atoms))])
    try:
        weights, _ = nnls(rows, np.append(np.zeros(atoms.shape[1]), 1.0))
    except RuntimeError:  # its iteration limit
        return None
    return np.asarray(weights / weights.sum())
