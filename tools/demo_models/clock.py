"""A learning-rate schedule that ends when the time is up, for any duration of a step."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Share of a time budget that is spent; survives a resume through `spent_before`.

    Args:
        budget_s: seconds that the training may take in all.
        spent_before: seconds that earlier runs of the same training took.
    """

    budget_s: float
    spent_before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def spent_s(self) -> float:
        """Seconds spent so far, including earlier runs."""
        return self.spent_before + time.monotonic() - self.started

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent, between 0 and 1."""
        return min(1.0, self.spent_s / self.budget_s) if self.budget_s > 0 else 1.0


def cosine_with_warmup(fraction: float, step: int, warmup_steps: int) -> float:
    """Return the learning rate's factor: linear over `warmup_steps`, a cosine down to 0.01."""
    cosine = 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * fraction))
    return cosine * min(1.0, (step + 1) / warmup_steps)
