"""Contract of a propagation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Schedule
from otcache_core.contracts import Evaluator
from otcache_core.errors import expected
from otcache_core.problem import Spans

Array = NDArray[np.float64]


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
    """From local displacements delta(i -> j) to displacements d(i -> j) of the result.

    Laws: pure but for the evaluator, and each sample for itself, so that shards merge to what one
    measurement gives; the result is a Gram matrix.
    """

    @property
    @abstractmethod
    def description(self) -> str:
        """A few words for the certificate."""

    @abstractmethod
    def grams(self, deviations: Deviations, evaluator: Evaluator | None) -> tuple[Array, int]:
        """<d_e, d_e'> of each sample, shape (samples, E, E), and the evaluations spent on them.

        Called once a measurement. Sample n of the evaluator is sample n of the deviations.

        Raises:
            OtcacheError: if an evaluator is needed and missing, or returns NaN or infinity.
        """


def alone(spans: Spans, num_steps: int) -> list[Schedule]:
    """The schedules that skip one span each and nothing else."""
    n = num_steps
    return [Schedule(num_steps=n, computed=(*range(i + 1), *range(j, n))) for i, j in spans]


def outcomes(
    evaluator: Evaluator | None, spans: Spans, num_steps: int, samples: range
) -> tuple[Array, int]:
    """<d_e, d_e'> of these spans from whole runs, and the evaluations spent.

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
