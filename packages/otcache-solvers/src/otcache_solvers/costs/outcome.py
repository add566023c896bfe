"""Span costs measured at the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from otcache_core import OtcacheError, Trajectory
from otcache_core.contracts import CostModel, Evaluator, SpanCosts
from otcache_core.errors import expected
from otcache_solvers.costs.propagation import alone
from otcache_solvers.costs.samples import Array, SampleCosts, recorded_steps
from otcache_solvers.needs import check_least

OBJECTIVE = "latent-l1"


@final
@dataclass(frozen=True)
class Outcome(CostModel):
    r"""Skip one span, run to the end, compare results.

    .. math:: w(i \to j) = E\, | x_N(\text{only } i \to j \text{ skipped}) - x_N(\text{full}) |

    with output reuse inside the span; the mean is over elements, then samples. A span that stops at
    j replays the recorded run up to i and computes the steps j .. N-1, so it costs N - j
    evaluations per sample and all spans together about N^2/6 full runs. The evaluator's own count is
    what is reported.

    References:
        LeMiCa: Lexicographic Minimax Path Caching for Efficient Diffusion-Based Video Generation
        (2025), https://arxiv.org/abs/2511.00090

    Args:
        samples: number of calibration samples to measure on, the first ones; as many as there are,
            if fewer.
        span_cap: longest span measured, in steps; longer ones cost ``inf``. A cap below N/B makes
            budget B infeasible, so there is none by default.
        progress: called with (spans measured, spans in all) after each batch.

    Raises:
        OtcacheError: if ``samples`` or ``span_cap`` is below 1.

    Examples:
        >>> Outcome(samples=0)
        Traceback (most recent call last):
        otcache_core.errors.OtcacheError: Outcome.samples must be at least 1, got 0.
    """

    samples: int = 2
    span_cap: int | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        check_least(self, samples=1, span_cap=1)

    def measure(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> SpanCosts:
        """Measure every span within the cap; see :class:`~otcache_core.contracts.CostModel`.

        Raises:
            OtcacheError: as :meth:`sample_costs`.
        """
        return self.sample_costs(trajectories, evaluator).span_costs()

    def sample_costs(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> SampleCosts:
        """Measure the costs of each sample, which shards can merge.

        Args:
            trajectories: recorded full runs of the shard's samples, all of the same N.
            evaluator: its samples are the trajectories'.

        Raises:
            OtcacheError: if there is no trajectory or no evaluator, they differ in N, the evaluator
                does not measure ``latent-l1``, or an error is not a number.
        """
        evaluator, n = _check(trajectories, evaluator)
        samples = range(min(self.samples, evaluator.num_samples))
        costs = np.full((len(samples), n, n + 1), np.inf)
        costs[:, np.tri(n, n + 1, k=1, dtype=bool)] = 0.0
        nfe = done = 0
        total = sum(len(starts) for _, starts in self._batches(n))
        for stop, starts in self._batches(n):
            schedules = alone([(start, stop) for start in starts], n)
            ran = evaluator.evaluate(schedules, objective=OBJECTIVE, samples=samples)
            costs[:, list(starts), stop] = _finite(ran.errors, stop).T
            nfe += ran.nfe
            done += len(starts)
            if self.progress is not None:
                self.progress(done, total)
        return SampleCosts("outcome", costs, nfe)

    def _batches(self, n: int) -> Iterator[tuple[int, range]]:
        """Yield each stop with its spans' starts; they share computed steps, so they run together."""
        longest = n if self.span_cap is None else self.span_cap
        for stop in range(2, n + 1):
            starts = range(max(0, stop - longest), stop - 1)
            if starts:
                yield stop, starts


def _check(
    trajectories: Sequence[Trajectory], evaluator: Evaluator | None
) -> tuple[Evaluator, int]:
    n = recorded_steps(trajectories, "outcome costs")
    if evaluator is None:
        raise OtcacheError("outcome costs run the pipeline, got no evaluator: pass the probe's.")
    if OBJECTIVE not in evaluator.objectives:
        known = ", ".join(evaluator.objectives)
        raise OtcacheError(expected("the evaluator's objectives", known, f"to include {OBJECTIVE}"))
    if len(evaluator.grid) != n + 1:
        steps = sorted((n, len(evaluator.grid) - 1))
        raise OtcacheError(expected("num_steps", steps, "one and the same for all runs"))
    return evaluator, n


def _finite(errors: Array, stop: int) -> Array:
    if not np.isfinite(errors).all() or (errors < 0).any():
        raise OtcacheError(
            f"errors of spans that stop at {stop} must be finite and >= 0, got others: "
            "the pipeline returned NaN or infinity; try float32 or bfloat16."
        )
    return errors
