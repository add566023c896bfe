"""No propagation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from otcache_core.contracts import Evaluator
from otcache_solvers.costs.propagation.base import Array, Deviations, Propagation


@final
@dataclass(frozen=True)
class NoPropagation(Propagation):
    r"""d(i -> j) = delta(i -> j): a deviation stays as it is. Price: 0.

    Examples:
        >>> NoPropagation().description
        'none (g = 1)'
    """

    @property
    def description(self) -> str:
        """A few words for the certificate."""
        return "none (g = 1)"

    def grams(self, deviations: Deviations, evaluator: Evaluator | None) -> tuple[Array, int]:
        """The local inner products themselves."""
        return deviations.local, 0
