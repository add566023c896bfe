"""Settings of DBCache from mild to aggressive."""

from __future__ import annotations

from otcache_core.contracts import BaselineSetting

#: (residual_diff_threshold, max_warmup_steps). Eight steps of warm-up are cache-dit's default, and 0.08 its
#: threshold; eight steps alone are more than low budgets allow, so warm-up shrinks as thresholds grow. At
#: 1 and above everything after warm-up is skipped.
RUNGS = (
    (0.08, 8),
    (0.12, 8),
    (0.12, 4),
    (0.16, 4),
    (0.2, 4),
    (0.24, 2),
    (0.3, 2),
    (0.4, 2),
    (0.4, 1),
    (0.6, 1),
    (0.8, 1),
    (0.99, 1),
)


def ladder(num_steps: int) -> list[BaselineSetting]:
    """One setting a rung, in cache-dit's own terms."""
    return [
        BaselineSetting(
            f"threshold={theta}, warmup={steps}",
            {"residual_diff_threshold": theta, "max_warmup_steps": steps},
            num_steps,
        )
        for theta, steps in RUNGS
    ]
