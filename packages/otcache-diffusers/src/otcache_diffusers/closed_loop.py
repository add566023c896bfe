"""The closed-loop fit of forecast weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.forecasters.strength import linear_weights
from otcache_core.schedule import Span


@dataclass(frozen=True)
class ClosedLoopFit:
    r"""Least squares for the weights of one span, from the state the accelerated run is really in.

    Under a one-step sampler x_{i+1} = x_i + (s_{i+1} - s_i) v_i a span (k -> j) whose skipped steps
    return u_c ends in x_j = x_{k+1} + (s_j - s_{k+1}) u_c. Solve

    .. math:: \min_c \sum_{samples} \| v_k + c_0 v_k + \sum_{r=1}^{m-1} c_r (v_k - v_{k_r})
        - \frac{x_j^{full} - x_{k+1}}{s_j - s_{k+1}} \|^2
        + \lambda \sum_r D_r (c_r - \bar c_r)^2

    where D is the diagonal of the normal matrix and the prior is two-step extrapolation
    (Adams-Bashforth): :math:`\bar c_1` its coefficient, all others 0.

    Args:
        memory: m, the number of computed outputs combined; 1 to 3.
        ridge: lambda, relative to the diagonal.

    References:
        This project's reconstruction; measured in docs/evidence.md.
    """

    memory: int = 3
    ridge: float = 1e-3

    def solve(
        self,
        span: Span,
        grid: NDArray[np.float64],
        outputs: Sequence[torch.Tensor],
        state: torch.Tensor,
        wanted: torch.Tensor,
    ) -> tuple[float, ...]:
        """Weights c_0 .. c_{m-1} of one span.

        Args:
            span: (k -> j), with at least one skipped step.
            grid: s_0 .. s_N.
            outputs: v_k, v_{k_1}, ... as the sampler saw them; each of shape (samples, ...).
            state: x_{k+1} of the accelerated run, same shape.
            wanted: x_j of the full run, same shape.

        Returns:
            min(memory, len(outputs)) weights.
        """
        newest, *older = [_host(v) for v in outputs[: self.memory]]
        basis = torch.stack([newest, *(newest - v for v in older)])
        step = float(grid[span.stop] - grid[span.start + 1])
        target = (_host(wanted) - _host(state)) / step - newest
        prior = np.zeros(len(basis))
        prior[1:2] = linear_weights(span, grid, 2)[1:2]
        normal = (basis @ basis.T).numpy()
        residual = (basis @ target).numpy() - normal @ prior
        damped = normal + np.diag(self.ridge * np.diagonal(normal) + np.finfo(float).tiny)
        return tuple(float(c) for c in prior + np.linalg.lstsq(damped, residual, rcond=None)[0])


def _host(x: torch.Tensor) -> torch.Tensor:
    return x.detach().cpu().double().flatten()
