"""DBCache, with and without TaylorSeer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from otcache_core.contracts import BaselineSetting
from otcache_core.numbers import integer
from otcache_diffusers.baselines.dbcache.baseline import CacheDiT, source_of

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


@final
class DBCache(CacheDiT):
    """Skip while the residual of the first blocks has changed little since the last computed step.

    Args:
        taylor_order: of the Taylor polynomial that extrapolates the residual of a skipped step, as
            TaylorSeer does; 1 is cache-dit's default for it, 0 reuses the residual.

    References:
        From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers (2025),
        https://arxiv.org/abs/2503.06923.

    Raises:
        OtcacheError: if the order is no integer of at least 0.
    """

    adaptive = True

    def __init__(self, taylor_order: int = 0) -> None:
        self._order = integer("taylor_order", taylor_order, 0)
        extrapolated = f" with TaylorSeer of order {self._order}" if self._order else ""
        self.source = source_of(f"DBCache{extrapolated}")

    def calibrator(self, library: Any) -> Any:
        if not self._order:
            return None
        return library.TaylorSeerCalibratorConfig(taylorseer_order=self._order)

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        """From mild to aggressive, in cache-dit's own terms; one setting a rung."""
        return [
            BaselineSetting(
                f"threshold={theta}, warmup={steps}",
                {"residual_diff_threshold": theta, "max_warmup_steps": steps},
                num_steps,
            )
            for theta, steps in RUNGS
        ]
