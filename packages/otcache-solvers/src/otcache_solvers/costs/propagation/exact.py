"""Propagation by running every span."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from otcache_core.contracts import Evaluator
from otcache_solvers.costs.propagation.base import Array, Deviations, Propagation, outcomes


@final
@dataclass(frozen=True)
class Exact(Propagation):
    r"""d(i -> j) from whole runs in which only this span is skipped.

    A span costs N - j evaluations a sample, all spans together about N^2/6 full runs. All results
    are held at once, to take their inner products: about N^2/2 latents a sample.

    References:
        LeMiCa: Lexicographic Minimax Path Caching for Efficient Diffusion-Based Video Generation
        (2025), https://arxiv.org/abs/2511.00090, for the runs; docs/theory.md, section 6.2, for the
        vectors.
    """

    @property
    def description(self) -> str:
        """A few words for the certificate."""
        return "exact"

    def grams(self, deviations: Deviations, evaluator: Evaluator | None) -> tuple[Array, int]:
        """One evaluation of all single-span schedules.

        Raises:
            OtcacheError: if the evaluator is missing or returns NaN or infinity.
        """
        samples = range(len(deviations.local))
        return outcomes(evaluator, deviations.spans, deviations.num_steps, samples)
