"""DBCache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from otcache_core.contracts import BaselineSetting
from otcache_diffusers.baselines.dbcache.baseline import CacheDiT
from otcache_diffusers.baselines.dbcache.ladder import ladder


@final
class DBCache(CacheDiT):
    """Skip while the residual of the first blocks has changed little since the last computed step."""

    adaptive = True

    @property
    def rule(self) -> str:
        return "DBCache"

    def calibrator(self, library: Any) -> Any:
        return None

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        return ladder(num_steps)
