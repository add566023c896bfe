"""What the experiments of ideas.py share: samples by role, the default policy, fits and scores."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ideas_loop import Loop, N, Plan, Samples, run

import otcache
from otcache.calibration.recipe import Recipe
from otcache_core.calibration import Calibration
from otcache_diffusers import demo

BUDGETS = (5, 6, 8, 10)
#: Every budget below is a rung, so that ideas are compared with fitted schedules, not interpolated ones.
LADDER = (4, *BUDGETS, 13)
TUNING_PROMPTS, HELD_PROMPTS = 8, 16
HELD_SEEDS = (1000, 1001)
Row = dict[str, Any]


class Bench:
    """Samples and the default policy; everything slow is kept in OUT.

    Args:
        out: a folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        self.loop = Loop()
        roles = demo.prompts()
        known = [text for text, _ in roles["calibration"]]
        held = [text for text, _ in roles["heldout"]][:HELD_PROMPTS]
        self.tuning = self._samples("tuning", known[:TUNING_PROMPTS], (0,))
        self.more = self._samples("more", known, (0, 1))
        self.held = self._samples("held", held, HELD_SEEDS)

    def _samples(self, name: str, prompts: list[str], seeds: tuple[int, ...]) -> Samples:
        each = [seed for seed in seeds for _ in prompts]
        return Samples(self.loop, prompts * len(seeds), each, self.out / f"{name}.pt")

    @cached_property
    def calibration(self) -> Calibration:
        """What the default policy is made from."""
        return otcache.calibrate(
            self.loop.pipe,
            self.tuning.prompts,
            N,
            recipe=Recipe(batch_size=16, ladder=LADDER),
            directory=self.out / "calibration",
            overwrite=True,
            progress=False,
            **demo.CALL,
        )

    @cached_property
    def policy(self) -> otcache.Policy:
        """The default policy."""
        return otcache.plan(self.calibration)

    def steps(self, budget: int) -> tuple[int, ...]:
        """Computed steps of the default policy."""
        return self.policy.schedule(budget).computed

    def tuned(self, plan: Plan) -> float:
        """Mean logarithm of the decoded error on the tuning samples, each run with the others' weights."""
        errors = self.tuning.errors(run(self.tuning, plan).x)["decoded"]
        return float(np.log(np.maximum(errors, 1e-12)).mean())

    def score(self, plan: Plan) -> Row:
        """Held-out errors with the weights of the tuning samples, and what was run."""
        weights = run(self.tuning, plan).weights
        errors = self.held.errors(run(self.held, plan, weights).x)
        self.held.memo.clear()
        return {name: e.tolist() for name, e in errors.items()} | {"note": describe(plan)}

    def check(self) -> float:
        """Largest difference of this loop's full runs from the pipeline's own."""
        rows = range(2)
        ours = self.held.full[0][N][: len(rows)].float()
        from otcache_core.contracts import SampleRequest
        from otcache_diffusers.recording.sampler import Sampler

        prompts, seeds = tuple(self.held.prompts[:2]), tuple(self.held.seeds[:2])
        request = SampleRequest(prompts, seeds, N, dict(demo.CALL), len(rows))
        return float((Sampler(demo.load(), request)(rows) - ours).abs().max())


def describe(plan: Plan) -> str:
    """A plan in a few characters."""
    if plan.cond == plan.other:
        return " ".join(map(str, plan.cond))
    kind = "c-u" if plan.difference else "u"
    return f"c {' '.join(map(str, plan.cond))}; {kind} {' '.join(map(str, plan.other))}"


def geometric(errors: Any) -> float:
    """Geometric mean."""
    return math.exp(float(np.log(np.maximum(errors, 1e-12)).mean()))
