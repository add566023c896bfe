"""Propagation by one number a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from otcache_core import OtcacheError
from otcache_core.contracts import Evaluator
from otcache_core.errors import expected
from otcache_solvers.costs.propagation.base import Array, Deviations, Propagation, outcomes


@final
@dataclass(frozen=True)
class ScalarGain(Propagation):
    r"""d(i -> j) = g_j delta(i -> j), with g_j measured at a few j.

    .. math:: g_j = \frac{\| d(i \to j) \|}{\| \delta(i \to j) \|}, \quad i = \max(0, j - 4),
        \qquad g_N = 1

    per sample, at steps j spread evenly in log j over 2 .. N - 1, and log g interpolated linearly
    in log j between them. A step costs N - j evaluations a sample: 3.8 full runs at N = 30 with six
    steps.

    References:
        docs/theory.md, section 6.2.

    Args:
        steps: how many j are measured; at least 1.
        length: of the spans whose growth is measured; at least 2.

    Raises:
        OtcacheError: if a number is out of range.

    Examples:
        >>> ScalarGain().stops(30)
        (2, 3, 6, 10, 17, 29)
    """

    steps: int = 6
    length: int = 4

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("length", 2)):
            if getattr(self, name) < least:
                what = f"ScalarGain.{name}"
                raise OtcacheError(expected(what, getattr(self, name), f"at least {least}"))

    @property
    def description(self) -> str:
        """A few words for the certificate."""
        return f"one gain a step, measured at {self.steps} steps"

    def stops(self, num_steps: int) -> tuple[int, ...]:
        """The steps j at which the gain is measured; none for N < 3, where only g_N = 1 is used."""
        if num_steps < 3:
            return ()
        spread = np.geomspace(2, num_steps - 1, self.steps) if self.steps > 1 else np.array([2.0])
        return tuple(sorted({round(j) for j in spread}))

    def grams(self, deviations: Deviations, evaluator: Evaluator | None) -> tuple[Array, int]:
        """The local inner products times g_j g_j'.

        Raises:
            OtcacheError: if the evaluator is missing or returns NaN or infinity.
        """
        gains, nfe = self._gains(deviations, evaluator)
        rows = gains[:, [j for _, j in deviations.spans]]
        return deviations.local * rows[:, :, None] * rows[:, None, :], nfe

    def _gains(self, deviations: Deviations, evaluator: Evaluator | None) -> tuple[Array, int]:
        """g_0 .. g_N of each sample, shape (samples, N + 1)."""
        n, samples = deviations.num_steps, len(deviations.local)
        known = {span: e for e, span in enumerate(deviations.spans)}
        measured = [(max(0, j - self.length), j) for j in self.stops(n)]
        measured = [span for span in measured if span in known]
        grams, nfe = outcomes(evaluator, tuple(measured), n, range(samples))
        rows = [known[span] for span in measured]
        before = np.sqrt(np.diagonal(deviations.local, axis1=1, axis2=2)[:, rows])
        after = np.sqrt(np.diagonal(grams, axis1=1, axis2=2))
        at = np.log([*(j for _, j in measured), n])
        gains = np.ones((samples, n + 1))
        for sample in range(samples):
            # A span that displaces nothing, or whose displacement dies out, says nothing of g.
            says = np.append((before[sample] > 0) & (after[sample] > 0), True)
            growth = np.append(after[sample], 1.0)[says] / np.append(before[sample], 1.0)[says]
            gains[sample, 1:] = np.exp(
                np.interp(np.log(np.arange(1, n + 1)), at[says], np.log(growth))
            )
        return gains, nfe
