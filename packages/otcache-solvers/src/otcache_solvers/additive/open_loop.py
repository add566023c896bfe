"""Forecast weights from the Gram of recorded outputs alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Schedule
from otcache_core.errors import expected
from otcache_core.schedule import Span
from otcache_solvers.costs.forecast import check_run

Array = NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class OpenLoopFit:
    r"""Least squares for the weights of each span, on the full run's own outputs ("open loop").

    .. math:: \min_\alpha E \Big\| \sum_{r=0}^{m-1} \alpha_r v_{k_r} - z \Big\|^2
        + \lambda \| \alpha \|^2, \qquad z = \sum_{t=k+1}^{j-1} (s_{t+1} - s_t)\, v_t

    Fitting every skipped step by itself gives the same end of the span, since least squares is linear
    in its target. So one constant output u does for all of them, in the executed form that
    ``fitted`` knows,

    .. math:: u = \frac{1}{R} \sum_r \alpha_r v_{k_r}
        = v_k + c_0 v_k + \sum_{r \ge 1} c_r (v_k - v_{k_r}), \qquad R = s_j - s_{k+1}

    No evaluation is spent; how far the accelerated run has drifted by then is not seen (the closed
    loop sees it). lambda is ``ridge`` times the mean of the normal matrix's diagonal, so at memory 2
    these are the weights that :class:`~otcache_solvers.additive.second_order.SecondOrder` plans with. For an
    Euler sampler in s.

    References:
        docs/theory.md, section 7.2.

    Args:
        gram: H[a, b] = E <v_a, v_b>, shape (N, N), symmetric.
        grid: s_0 .. s_N, shape (N + 1,).
        memory: m, the number of computed outputs combined; 1 to 3.
        ridge: relative, above 0.

    Raises:
        OtcacheError: if a shape or value is wrong.

    Examples:
        >>> v = np.array([1.0, 2.0, 3.0])  # linear in s: two outputs tell the third
        >>> fit = OpenLoopFit(np.outer(v, v), np.array([3.0, 2.0, 1.0, 0.0]), memory=1, ridge=1e-9)
        >>> [round(c, 6) for row in fit.fitted(Schedule(3, (0, 1))).weights for c in row]
        [0.0, 0.5]
    """

    gram: Array
    grid: Array
    memory: int = 3
    ridge: float = 1e-4

    def __post_init__(self) -> None:
        check_run(self.gram, self.grid, self.ridge)
        if self.memory not in (1, 2, 3):
            raise OtcacheError(expected("OpenLoopFit.memory", self.memory, "1, 2 or 3"))

    def fitted(self, schedule: Schedule) -> Schedule:
        """The same steps with a row of weights a span, for every branch.

        Raises:
            OtcacheError: if N differs.
        """
        n = len(self.gram)
        if schedule.num_steps != n:
            raise OtcacheError(
                expected("schedule.num_steps", schedule.num_steps, f"{n}, as the Gram")
            )
        return schedule.with_weights([self.weights(span) for span in schedule.spans()])

    def weights(self, span: Span) -> tuple[float, ...]:
        """c_0 .. c_{m-1} of one span, m at most 1 + history; zeros where nothing is skipped."""
        known = [span.start, *span.history][: self.memory]
        ahead = list(span.skipped)
        reach = float(self.grid[span.stop] - self.grid[span.start + 1])
        if not ahead or reach == 0.0:
            return (0.0,) * len(known)
        normal = self.gram[np.ix_(known, known)]
        toward = self.gram[np.ix_(known, ahead)] @ np.diff(self.grid)[ahead]
        size = float(np.trace(normal)) / len(known)
        if size <= 0.0:
            return (0.0,) * len(known)
        share = np.linalg.solve(normal + self.ridge * size * np.eye(len(known)), toward) / reach
        return (float(share.sum()) - 1.0, *(-float(a) for a in share[1:]))
