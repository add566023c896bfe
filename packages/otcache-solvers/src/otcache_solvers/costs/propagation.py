"""How a deviation at the end of a span is carried to the end of the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from otcache_core import OtcacheError, Schedule
from otcache_core.contracts import Evaluator
from otcache_core.errors import expected
from otcache_core.problem import Spans
from otcache_solvers.costs.samples import Array
from otcache_solvers.needs import check_least


@dataclass(frozen=True, eq=False)
class Deviations:
    """What the recorded runs say about each span.

    Args:
        num_steps: N.
        spans: the pairs (i, j), sorted; E of them.
        local: <delta_e, delta_e'> of each sample, shape (samples, E, E).
    """

    num_steps: int
    spans: Spans
    local: Array


class Propagation(ABC):
    """The way from local displacements delta(i -> j) to displacements d(i -> j) of the result.

    Properties: pure but for the evaluator, and each sample for itself, so that shards merge to what one
    measurement gives; the result is a Gram matrix.
    """

    @property
    @abstractmethod
    def description(self) -> str:
        """A few words for the certificate."""

    @abstractmethod
    def grams(self, deviations: Deviations, evaluator: Evaluator | None) -> tuple[Array, int]:
        """Compute <d_e, d_e'> of each sample, shape (samples, E, E), and the evaluations spent on them.

        This is called once a measurement. Sample n of the evaluator is sample n of the deviations.

        Raises:
            OtcacheError: if an evaluator is needed and missing, or returns NaN or infinity.
        """


def alone(spans: Sequence[tuple[int, int]], num_steps: int) -> list[Schedule]:
    """Return the schedules that skip one span each and nothing else."""
    n = num_steps
    return [Schedule(num_steps=n, computed=(*range(i + 1), *range(j, n))) for i, j in spans]


def outcomes(
    evaluator: Evaluator | None, spans: Spans, num_steps: int, samples: range
) -> tuple[Array, int]:
    """Measure <d_e, d_e'> of these spans by whole runs, and count the evaluations.

    Raises:
        OtcacheError: if there is no evaluator, its runs have another N, or a result is not finite.
    """
    if evaluator is None:
        raise OtcacheError(
            "this propagation runs the pipeline, got no evaluator: pass the probe's, "
            "or use the cost model 'local', which runs nothing."
        )
    if len(evaluator.grid) != num_steps + 1:
        raise OtcacheError(
            expected("num_steps", len(evaluator.grid) - 1, f"{num_steps}, as the recorded runs")
        )
    if not spans:
        return np.zeros((len(samples), 0, 0)), 0
    ran = evaluator.evaluate(alone(spans, num_steps), samples=samples)
    if not np.isfinite(ran.grams).all():
        raise OtcacheError(
            "displacements must be finite, got others: "
            "the pipeline returned NaN or infinity; try float32 or bfloat16."
        )
    return np.asarray(ran.grams, dtype=np.float64), ran.nfe


@final
@dataclass(frozen=True)
class ScalarGain(Propagation):
    r"""d(i -> j) = g_j delta(i -> j), with g_j measured at a few j.

    .. math:: g_j = \frac{\| d(i \to j) \|}{\| \delta(i \to j) \|}, \quad i = \max(0, j - 4),
        \qquad g_N = 1

    per sample, at steps j spread evenly in log j over 2 .. N - 1, and log g interpolated linearly
    in log j between them. A step costs N - j evaluations per sample: 3.8 full runs at N = 30 with six
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
        check_least(self, steps=1, length=2)

    @property
    def description(self) -> str:
        """A few words for the certificate."""
        return f"one gain per step, measured at {self.steps} steps"

    def stops(self, num_steps: int) -> tuple[int, ...]:
        """Return the steps j at which the gain is measured; none for N < 3, where only g_N = 1 is used."""
        if num_steps < 3:
            return ()
        spread = np.geomspace(2, num_steps - 1, self.steps) if self.steps > 1 else np.array([2.0])
        return tuple(sorted({round(j) for j in spread}))

    def grams(self, deviations: Deviations, evaluator: Evaluator | None) -> tuple[Array, int]:
        """Multiply the local inner products by g_j g_j'.

        Raises:
            OtcacheError: if the evaluator is missing or returns NaN or infinity.
        """
        gains, nfe = self._gains(deviations, evaluator)
        rows = gains[:, [j for _, j in deviations.spans]]
        return deviations.local * rows[:, :, None] * rows[:, None, :], nfe

    def _gains(self, deviations: Deviations, evaluator: Evaluator | None) -> tuple[Array, int]:
        """Measure g_0 .. g_N of each sample, shape (samples, N + 1)."""
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


@final
@dataclass(frozen=True)
class Exact(Propagation):
    r"""d(i -> j) from whole runs in which only this span is skipped.

    A span costs N - j evaluations per sample, all spans together about N^2/6 full runs. All results
    are held at once, to take their inner products: about N^2/2 latents a sample.

    References:
        LeMiCa: Lexicographic Minimax Path Caching for Efficient Diffusion-Based Video Generation
        (2025), https://arxiv.org/abs/2511.00090, for the runs; docs/theory.md, section 6.2, for the
        vectors.
    """

    description = "exact"

    def grams(self, deviations: Deviations, evaluator: Evaluator | None) -> tuple[Array, int]:
        """Run all single-span schedules in one evaluation.

        Raises:
            OtcacheError: if the evaluator is missing or returns NaN or infinity.
        """
        samples = range(len(deviations.local))
        return outcomes(evaluator, deviations.spans, deviations.num_steps, samples)
