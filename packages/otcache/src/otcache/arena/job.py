"""What is compared: plain data that a worker process can read."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from otcache.results import Label
from otcache_core import OtcacheError, __version__
from otcache_core.errors import expected
from otcache_core.schedule import check_budget

FORMAT, VERSION = "otcache-arena", 1


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One comparison, but for the methods: those may be added to it later.

    Args:
        title: heading of the report.
        pipeline: as ``otcache.opening.open_pipeline`` takes it: every worker opens its own.
        num_steps: N of the full run.
        budgets: B of the table, increasing.
        samples: (prompt, seed, tags) of each held-out picture; tags joined by commas.
        calibration: prompts on which methods measure and tune themselves; none of the held-out ones.
        call: further arguments of the pipeline call.
        options: method name to arguments of its peer class.
        reference_steps: steps of the run that stands for the ODE's solution.
        counted: held-out samples on which evaluations of input-dependent methods are counted.
        written_by: version of otcache: results of different ones are not mixed.

    Raises:
        OtcacheError: if a budget is not in 1..N, prompts are missing or used twice, or a call argument
            is not finite.
    """

    title: str
    pipeline: str
    num_steps: int
    budgets: tuple[int, ...]
    samples: tuple[Label, ...]
    calibration: tuple[str, ...]
    call: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    reference_steps: int = 500
    counted: int = 4
    written_by: str = __version__

    def __post_init__(self) -> None:
        for budget in self.budgets:
            check_budget(budget, self.num_steps)
        if not self.budgets or list(self.budgets) != sorted(set(self.budgets)):
            raise OtcacheError(expected("budgets", self.budgets, "distinct and increasing"))
        if not self.samples or not self.calibration:
            got = f"{len(self.samples)} and {len(self.calibration)}"
            raise OtcacheError(expected("held-out and calibration prompts", got, "some of each"))
        seen = sorted({prompt for prompt, _, _ in self.samples} & set(self.calibration))
        if seen:
            wanted = "others than the calibration prompts"
            raise OtcacheError(expected("held-out prompts", seen[0], wanted))
        for name, value in self.call.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise OtcacheError(expected(f"call argument {name}", value, "a finite number"))

    @property
    def prompts(self) -> tuple[str, ...]:
        """Of each held-out sample."""
        return tuple(prompt for prompt, _, _ in self.samples)
