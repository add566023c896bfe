"""Propagation along principal directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.contracts import Evaluator
from otcache_core.errors import expected
from otcache_solvers.costs.propagation.base import Array, Deviations, Propagation, outcomes


@final
@dataclass(frozen=True)
class Principal(Propagation):
    r"""Run a few spans a stop, and express the others by them.

    .. math:: \delta(i \to j) \approx \sum_{p \in P_j} C_{ip}\, \delta(p \to j)
        \quad\Rightarrow\quad d(i \to j) \approx \sum_{p \in P_j} C_{ip}\, d(p \to j)

    propagation being linear for small deviations. P_j are the pivots of a pivoted Cholesky
    factorisation of the local inner products of the spans that end at j: each next one is the span
    farthest from the plane of those before it. C is least squares. Every sample has its own pivots.
    A stop costs ``rank`` times N - j evaluations a sample; all together about rank N/2 full runs.

    References:
        Businger and Golub, Linear least squares solutions by Householder transformations, 1965, for
        column pivoting; docs/theory.md, section 6.2.

    Args:
        rank: spans run a stop, at least 1; where it reaches their number, that stop is exact.
        tolerance: no further pivot where the farthest span is nearer than this part of the largest.

    Raises:
        OtcacheError: if a number is out of range.
    """

    rank: int = 2
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise OtcacheError(expected("Principal.rank", self.rank, "at least 1"))
        if not 0 <= self.tolerance < 1:
            raise OtcacheError(expected("Principal.tolerance", self.tolerance, "in [0, 1)"))

    @property
    def description(self) -> str:
        """A few words for the certificate."""
        return f"{self.rank} principal directions a step"

    def grams(self, deviations: Deviations, evaluator: Evaluator | None) -> tuple[Array, int]:
        """C G C' of each sample, with G the inner products of the spans that were run.

        Raises:
            OtcacheError: if the evaluator is missing or returns NaN or infinity.
        """
        found, nfe = [], 0
        for sample, local in enumerate(deviations.local):
            pivots, combine = self._combinations(deviations, local)
            spans = tuple(deviations.spans[e] for e in pivots)
            here = range(sample, sample + 1)
            grams, spent = outcomes(evaluator, spans, deviations.num_steps, here)
            found.append(combine @ grams[0] @ combine.T)
            nfe += spent
        return np.stack([(m + m.T) / 2 for m in found]), nfe

    def _combinations(self, deviations: Deviations, local: Array) -> tuple[list[int], Array]:
        """Rows of the pivots of all stops, and C of shape (E, pivots)."""
        pivots: list[int] = []
        blocks = []
        for stop in range(2, deviations.num_steps + 1):
            rows = deviations.starts(stop)
            chosen, C = self._stop(local[np.ix_(rows, rows)])
            blocks.append((rows, slice(len(pivots), len(pivots) + len(chosen)), C))
            pivots += rows[chosen].tolist()
        combine = np.zeros((len(local), len(pivots)))
        for rows, columns, C in blocks:
            combine[rows, columns] = C
        return pivots, combine

    def _stop(self, G: Array) -> tuple[NDArray[np.intp], Array]:
        if self.rank >= len(G):
            return np.arange(len(G)), np.eye(len(G))
        chosen = _pivots(G, self.rank, self.tolerance)
        if not len(chosen):  # nothing is displaced here: any one span stands for all of them
            return np.zeros(1, dtype=np.intp), np.ones((len(G), 1))
        inner, cross = G[np.ix_(chosen, chosen)], G[:, chosen]
        C = np.linalg.lstsq(inner, cross.T, rcond=None)[0].T
        C[chosen] = np.eye(len(chosen))
        return chosen, np.asarray(C, dtype=np.float64)


def _pivots(G: Array, rank: int, tolerance: float) -> NDArray[np.intp]:
    """The first pivots of a pivoted Cholesky factorisation of G."""
    left, factor, chosen = np.diagonal(G).copy(), np.zeros((len(G), 0)), []
    limit = tolerance**2 * left.max(initial=0.0)
    for _ in range(rank):
        p = int(left.argmax())
        if left[p] <= limit:
            break
        column = (G[:, p] - factor @ factor[p]) / np.sqrt(left[p])
        factor = np.column_stack([factor, column])
        left = np.maximum(left - column**2, 0.0)
        left[p] = 0.0
        chosen.append(p)
    return np.array(chosen, dtype=np.intp)
