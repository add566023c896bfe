"""How a deterministic sampler makes each state: linearly, of former states and denoiser outputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: A sum smaller than this share of its terms' magnitudes counts as 0: rounding of what cancels.
SINGULAR = 1e-6


@dataclass(frozen=True)
class SpanEnd:
    r"""The state x_j at which a span (k -> j) ends, if every skipped step returns the same output u.

    .. math:: x_j = \sum_q A_q x_{k+1-q} + \sum_q B_q v_{k-q} + R\,u + C

    Attributes:
        states: A_0, A_1, ..., for x_{k+1}, x_k, ...
        outputs: B_0, B_1, ..., for v_k, v_{k-1}, ...
        reach: R, the coefficient of u; for an Euler sampler s_j - s_{k+1}.
        singular: whether R is 0 up to rounding, so that x_j does not depend on u.
        shares: the part of R that comes from each skipped step, summing to 1; empty if singular.
        offset: C, the constant that a sampler adds to its result; 0 for a span that ends before N.
    """

    states: tuple[float, ...]
    outputs: tuple[float, ...]
    reach: float
    singular: bool
    shares: tuple[float, ...] = ()
    offset: float = 0.0


@dataclass(frozen=True, eq=False)
class Recurrence:
    r"""A deterministic linear sampler of order p.

    .. math:: x_{i+1} = \sum_{q=0}^{p} a_{i,q}\, x_{i-q} + b_{i,q}\, v_{i-q}

    Attributes:
        states: a, shape (N, p + 1); 0 if i < q.
        outputs: b, same shape.
        residual: largest deviation of the recorded runs from the recurrence, in excess of rounding and
            relative to the change of the state in that step; over samples and all steps but the first.
        grid: s_0 .. s_N of an Euler sampler, a = 1 and b_i = s_{i+1} - s_i; None for any other.
        undetermined: steps whose coefficients the runs do not determine, since states and outputs happen
            to be collinear there (not by the sampler's own rule). Theirs are the least-norm solution.
        offset: C of a sampler that returns an affine map of its last state, such as (x + 1)/2; the
            last step's coefficients hold the factor.
        noisy: whether the sampler also adds noise, the same in every run with a sample's seed: only
            differences of two such runs obey the recurrence.
    """

    states: Floats
    outputs: Floats
    residual: float
    grid: Floats | None = None
    undetermined: tuple[int, ...] = ()
    offset: float = 0.0
    noisy: bool = False

    @classmethod
    def euler(cls, grid: Floats, residual: float = 0.0) -> Recurrence:
        """Make the one-step rule x_{i+1} = x_i + (s_{i+1} - s_i) v_i on s_0 .. s_N."""
        steps = np.diff(grid)[:, None]
        return cls(np.ones_like(steps), steps, residual, grid)

    @property
    def order(self) -> int:
        """p, how many earlier states and outputs a step uses besides the current ones."""
        return int(self.states.shape[1]) - 1

    def __str__(self) -> str:
        kind = "Euler" if self.grid is not None else "linear"
        noise = " and noise of each seed" if self.noisy else ""
        text = (
            f"{kind} recurrence of order {self.order}{noise}, relative residual {self.residual:.1e}"
        )
        if not self.undetermined:
            return text
        return f"{text}; {len(self.undetermined)} steps have coefficients that these runs do not determine"

    def output_weights(self) -> Floats:
        r"""Return R_t, the derivative of the result x_N by the output of step t, other outputs held fixed.

        .. math:: x_N = \dots + \sum_t R_t v_t

        Under the Euler rule s_{t+1} - s_t. Shape (N,).
        """
        if self.grid is not None:
            return np.asarray(np.diff(self.grid))
        # Derivatives of x_N by the states, from the last step backwards (an adjoint pass).
        num_steps, lags = self.states.shape
        derivatives, adjoint = np.zeros(num_steps), np.zeros(num_steps + 1)
        adjoint[num_steps] = 1.0
        for i in range(num_steps - 1, -1, -1):
            for q in range(min(lags, i + 1)):
                derivatives[i - q] += adjoint[i + 1] * self.outputs[i, q]
                adjoint[i - q] += adjoint[i + 1] * self.states[i, q]
        return derivatives

    def span_end(self, k: int, j: int) -> SpanEnd:
        """Compute where the span (k -> j) ends; it must skip a step: ``j`` is at least k + 2."""
        if self.grid is not None:
            reach = float(self.grid[j] - self.grid[k + 1])
            return SpanEnd(
                (1.0,), (), reach, reach == 0, _shares(np.diff(self.grid[k + 1 : j + 1]))
            )
        counts = (min(self.order, k + 1) + 1, min(self.order, k + 1), j - k - 1)
        basis = iter(np.eye(sum(counts)))
        x = {k + 1 - q: next(basis) for q in range(counts[0])}
        v = {k - q: next(basis) for q in range(counts[1])}
        v |= {t: next(basis) for t in range(k + 1, j)}
        for i in range(k + 1, j):
            x[i + 1] = np.zeros(sum(counts))
            for q in range(min(self.order, i) + 1):
                x[i + 1] += self.states[i, q] * x[i - q] + self.outputs[i, q] * v[i - q]
        a, b, weights = np.split(x[j], np.cumsum(counts)[:2])
        reach = float(weights.sum())
        singular = abs(reach) <= SINGULAR * float(np.abs(weights).sum())
        offset = self.offset if j == len(self.states) else 0.0
        shares = () if singular else _shares(weights)
        return SpanEnd(tuple(map(float, a)), tuple(map(float, b)), reach, singular, shares, offset)


def _shares(weights: Floats) -> tuple[float, ...]:
    total = float(weights.sum())
    return tuple(float(part) / total for part in weights) if total else ()


@dataclass(frozen=True)
class NotLinear:
    """The sampler follows no linear recurrence that could be found.

    Attributes:
        reason: why, in words.
        residual: of the best recurrence tried; infinity if none could be tried.
    """

    reason: str
    residual: float
