"""Schedules of the rivals that skip steps of the full grid: the rules that `otcache compare` knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from otcache.comparison.baselines import (
    Annealed,
    LeMiCa,
    MeanCache,
    ScheduledBaseline,
    StateDP,
    UniformSteps,
    UniformTaylor,
)
from otcache.comparison.scheduled import Tuning
from otcache_core import Schedule
from otcache_core.contracts import SampleRequest
from otcache_core.plugins import Registry


class Rivals:
    """One schedule a method and budget; otcache.comparison.baselines states each rule.

    Args:
        pipe, request: the calibration samples.
        folder: keeps what was found.
        allowance: denoiser evaluations the search may spend at each budget.
        budgets: what will be asked for.
    """

    NAMES: ClassVar[tuple[str, ...]] = (
        "uniform, reuse",
        "uniform, linear",
        "Taylor",
        "LeMiCa rule",
        "MeanCache, released rule",
        "state-DP",
        "BudCache-style",
    )

    def __init__(
        self,
        pipe: Any,
        request: SampleRequest,
        folder: Path,
        allowance: int,
        budgets: Sequence[int],
    ) -> None:
        self._tuning, self._budgets = Tuning(pipe, request, Registry()), budgets
        self._folder = folder / "rivals"
        self._folder.mkdir(exist_ok=True)
        rules: tuple[ScheduledBaseline, ...] = (
            UniformSteps("reuse"),
            UniformSteps("linear"),
            UniformTaylor(),
            LeMiCa(),
            MeanCache(),
            StateDP(),
            Annealed(allowance * len(budgets) / self._tuning.full_runs),
        )
        self._rules = dict(zip(self.NAMES, rules, strict=True))

    def schedule(self, name: str, budget: int) -> Schedule:
        """The method's schedule at a budget; the first call of a method finds all of them."""
        path = self._folder / f"{name}.json"
        if not path.exists():
            found, _ = self._rules[name].schedules(self._tuning, self._budgets)
            path.write_bytes(msgspec.json.encode(found))
        kept = msgspec.json.decode(path.read_bytes(), type=dict[int, Schedule])
        return kept[budget]
