"""Lower bounds of vector sums by projections, exact for each direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otcache_solvers.needs import library
from otcache_solvers.vector_sum.span_vectors import SpanVectors

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
        """Tables for up to ``budget`` spans."""
        along = np.where(spans.usable[:, :, None], spans.vectors @ directions.T, np.inf)
        n = spans.num_steps
        rest = np.full((budget + 1, n + 1, len(directions)), np.inf)
        rest[0, n] = 0.0
        for b in range(1, budget + 1):
            rest[b, :n] = (along + rest[b - 1]).min(axis=1)
        return cls(directions, along, rest)

    def path(self, budget: int, start: int) -> tuple[int, ...]:
        """The path of ``budget`` spans from ``start`` that has the least first projection."""
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
    r"""Fully corrective Frank-Wolfe: the convex relaxation without a QP solver.

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
    """Sum of d over the spans between these nodes, shape (r,)."""
    return np.asarray(spans.vectors[list(nodes[:-1]), list(nodes[1:])].sum(axis=0))


def _unit(p: Floats) -> Floats:
    norm = float(np.linalg.norm(p))
    return p / norm if norm > 0 else np.full(len(p), 1 / np.sqrt(max(1, len(p))))


def _nearest_weights(atoms: Floats) -> Floats | None:
    """Convex weights of the point of conv(atoms) nearest to 0; None where scipy gives up.

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
