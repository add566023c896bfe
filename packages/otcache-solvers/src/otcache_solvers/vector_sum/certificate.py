"""What is proven about a schedule, and about nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from otcache_core import OtcacheError
from otcache_core.errors import expected


@dataclass(frozen=True)
class Certificate:
    """A lower bound of one objective, on one set of calibration samples.

    Args:
        objective: what is bounded, with its formula.
        forecaster: fills the skipped steps.
        samples: number of calibration samples the objective is a mean over.
        value: of the schedule, in the objective's units; at least 0.
        lower_bound: no schedule of the budget is below it; at most ``value``.
        method: what proved it.
        truncation: largest part of the objective that the method's low rank can miss; it loosens
            the bound and never breaks it.
        resolution: bound and value count as equal where they differ by less: the rounding of the
            measured objective.
        reason: why value and bound do not meet, and what to do; empty where they do.

    Raises:
        OtcacheError: if the bound is not between 0 and the value.

    Examples:
        >>> Certificate("x", "reuse", 4, 2.0, 1.5, "beam").gap
        0.25
    """

    objective: str
    forecaster: str
    samples: int
    value: float
    lower_bound: float
    method: str
    truncation: float = 0.0
    resolution: float = 0.0
    reason: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.lower_bound <= self.value:
            wanted = f"between 0 and the value {self.value}"
            raise OtcacheError(expected("Certificate.lower_bound", self.lower_bound, wanted))

    @property
    def gap(self) -> float:
        """(value - lower bound) / value, in 0..1; 0 where the schedule is optimal."""
        return (self.value - self.lower_bound) / self.value if self.value else 0.0

    def __str__(self) -> str:
        found = "optimal" if not self.gap else f"within {100 * self.gap:.2g} % of optimal"
        return (
            f"{found} for {self.objective}, forecaster {self.forecaster}, "
            f"on {self.samples} calibration samples, by {self.method}; nothing else is bounded"
        )
