"""DBCache with TaylorSeer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from otcache_core.contracts import BaselineSetting
from otcache_diffusers.baselines.dbcache.baseline import CacheDiT
from otcache_diffusers.baselines.dbcache.ladder import ladder


@final
class DBCacheTaylorSeer(CacheDiT):
    """DBCache, the skipped residual extrapolated by a Taylor polynomial of order 1, cache-dit's default.

    References:
        From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers (2025),
        https://arxiv.org/abs/2503.06923.
    """

    adaptive = True

    @property
    def rule(self) -> str:
        return "DBCache with TaylorSeer of order 1"

    def calibrator(self, library: Any) -> Any:
        return library.TaylorSeerCalibratorConfig(taylorseer_order=1)

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        return ladder(num_steps)
