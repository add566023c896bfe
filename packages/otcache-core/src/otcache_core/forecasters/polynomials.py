"""Forecasts in orthogonal polynomials: Hermite's in place of powers, Chebyshev's by ridge regression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.planning import Forecaster
from otcache_core.errors import ScheduleError, expected
from otcache_core.forecasters.extrapolation import Taylor, differences
from otcache_core.schedule import Span

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True)
class Hermite(Forecaster):
    r"""HiCache's rule on whole outputs: Taylor's differences, in scaled Hermite polynomials.

    .. math:: \hat v_t = v_k + \sum_{q=1}^{Q} \frac{\tilde H_q(t-k)}{q!}\, \Delta^q_k, \qquad
        \tilde H_q(x) = \sigma^q H_q(\sigma x)

    with the differences of :class:`~otcache_core.forecasters.Taylor` and H_q the physicists' Hermite
    polynomials: H_1(x) = 2 x, H_2(x) = 4 x^2 - 2. At sigma = 1/2 the first order is half the linear slope.
    The source forecasts the features of every block; here the denoiser's output is the one feature.

    Memory is 1 + Q outputs.

    References:
        HiCache: a plug-in scaled-Hermite upgrade for Taylor-style cache-then-forecast diffusion acceleration
        (2025), https://arxiv.org/abs/2508.16984, whose released code has these defaults; docs/theory.md,
        section 9.7.

    Args:
        order: Q, at least 0; 0 is reuse.
        sigma: the scale, above 0; at the root of 1/2 the first order is Taylor's.

    Raises:
        ScheduleError: if one is out of range.

    Examples:
        >>> Hermite(1).coefficients(Span(4, 7, (2, 0)), np.linspace(1, 0, 11)).tolist()
        [[1.25, -0.25], [1.5, -0.5]]
    """

    order: int = 2
    sigma: float = 0.5

    def __post_init__(self) -> None:
        check_order("Hermite.order", self.order)
        check_positive("Hermite.sigma", self.sigma)

    def coefficients(self, span: Span, grid: Floats) -> Floats:
        """Sum of the rows of Delta^q times the q-th polynomial over q!; shape (skipped, 1 + Q)."""
        rows = differences((span.start, *span.history[: self.order]))
        ahead = np.array(span.skipped, dtype=np.float64) - span.start
        basis = self.sigma ** np.arange(len(rows)) * hermite(self.sigma * ahead, len(rows) - 1)
        factorials = np.array([math.factorial(q) for q in range(len(rows))], dtype=np.float64)
        return np.asarray((basis / factorials) @ rows)


@final
@dataclass(frozen=True)
class Spectrum(Forecaster):
    r"""Spectrum's rule on whole outputs: ridge regression on Chebyshev polynomials, mixed with a line.

    .. math:: \hat v_t = w\, T(\tau_t)^T (X^T X + \lambda I)^{-1} X^T V
        + (1 - w) \Big( v_k + \frac{t - k}{k - k_1} (v_k - v_{k_1}) \Big), \qquad
        \tau_t = \frac{2 t}{N} - 1

    with a row T_0 .. T_M of :math:`\tau` in X and an output in V for every computed step so far. Without an
    earlier step the line is v_k. The constant is in the penalty too, so constant outputs are not met exactly.

    The source forecasts what the last block returns, in bf16, and writes N = 50; here it is the denoiser's
    output, as in stable-diffusion.cpp, in float64, and the run's own N, as in SGLang.

    Memory is all computed outputs.

    References:
        Adaptive spectral feature forecasting for diffusion sampling acceleration (2026),
        https://arxiv.org/abs/2603.01623, which has w = 1; its released scripts have w = 1/2;
        docs/theory.md, section 9.6.

    Args:
        degree: M, at least 0.
        ridge: lambda, above 0.
        share: w, in [0, 1].

    Raises:
        ScheduleError: if one is out of range.
    """

    degree: int = 4
    ridge: float = 0.1
    share: float = 0.5

    def __post_init__(self) -> None:
        check_order("Spectrum.degree", self.degree)
        check_positive("Spectrum.ridge", self.ridge)
        if not 0.0 <= self.share <= 1.0:
            raise ScheduleError(expected("Spectrum.share", self.share, "between 0 and 1"))

    def coefficients(self, span: Span, grid: Floats) -> Floats:
        """Rows of the regression over all computed outputs; shape (skipped, 1 + history)."""
        steps = np.array([span.start, *span.history], dtype=np.float64)
        last = len(grid) - 1
        design = chebyshev(2.0 * steps / last - 1.0, self.degree)
        wanted = chebyshev(2.0 * np.array(span.skipped, dtype=np.float64) / last - 1.0, self.degree)
        normal = design.T @ design + self.ridge * np.eye(self.degree + 1)
        table = self.share * (wanted @ np.linalg.solve(normal, design.T))
        line = Taylor(1).coefficients(span, grid)
        table[:, : line.shape[1]] += (1.0 - self.share) * line
        return np.asarray(table)


def hermite(x: Floats, order: int) -> Floats:
    r"""H_0 .. H_order of the physicists, H_{q+1} = 2 x H_q - 2 q H_{q-1}; shape (len(x), order + 1)."""
    columns = [np.ones_like(x), 2.0 * x]
    for q in range(1, order):
        columns.append(2.0 * x * columns[q] - 2.0 * q * columns[q - 1])
    return np.stack(columns[: order + 1], axis=1)


def chebyshev(x: Floats, degree: int) -> Floats:
    r"""T_0 .. T_degree, T_{q+1} = 2 x T_q - T_{q-1}; shape (len(x), degree + 1)."""
    columns = [np.ones_like(x), x]
    for q in range(1, degree):
        columns.append(2.0 * x * columns[q] - columns[q - 1])
    return np.stack(columns[: degree + 1], axis=1)


def check_order(what: str, order: object) -> None:
    """Check that it is a whole number of at least 0.

    Raises:
        ScheduleError: otherwise.
    """
    if isinstance(order, bool) or not isinstance(order, int) or order < 0:
        raise ScheduleError(expected(what, order, "an integer, 0 or more"))


def check_positive(what: str, value: float) -> None:
    """Check that it is a finite number above 0.

    Raises:
        ScheduleError: otherwise.
    """
    if not 0.0 < value < math.inf:
        raise ScheduleError(expected(what, value, "a finite number above 0"))
