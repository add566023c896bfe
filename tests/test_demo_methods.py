"""What the demo's table always shows beside otcache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toy import STEPS, make_loop

from otcache.comparison.scheduled import Tuning
from otcache.demo.methods import SAMPLERS, Method, methods
from otcache.running import accelerate
from otcache_core import Provenance, Schedule
from otcache_core.contracts import SampleRequest
from otcache_core.plugins import Registry
from otcache_core.policy import Policy
from otcache_diffusers import demo

BUDGETS = (3, 4)
ANCHOR, REFERENCE = (0, 3), (0, 2, 4, 6, 9)


def _rows(target: Any, n: int, call: dict[str, Any], prompts: tuple[str, ...]) -> list[Method]:
    request = SampleRequest(prompts, (0,) * len(prompts), n, call)
    anchor = Schedule(n, tuple(i for i in ANCHOR if i < n))
    reference = Schedule(n, tuple(i for i in REFERENCE if i < n))
    policy = Policy(anchor, reference, Provenance(n))
    tuning = Tuning(target, request, Registry())
    return methods(tuning, BUDGETS, policy, lemica_prompts=1, samplers=tuple(SAMPLERS))


def test_fewer_steps_and_the_two_step_rule_stand_in_every_table() -> None:
    """Without these rows any cache looks good: just taking fewer steps is a competitor."""
    rows = {m.name: m for m in _rows(make_loop(), STEPS, {}, ("a", "b"))}
    assert list(rows) == [
        *("uniform", "fewer steps", "LeMiCa rule", "MeanCache rule", "Adams-Bashforth", "otcache")
    ]
    for budget in BUDGETS:
        found = {name: row.schedule(budget) for name, row in rows.items()}
        assert found["fewer steps"] == Schedule.full(budget)
        assert {schedule.budget for schedule in found.values()} == {budget}
        assert found["Adams-Bashforth"].forecaster == "linear"
        assert found["Adams-Bashforth"].computed == found["uniform"].computed
        assert found["MeanCache rule"].forecaster == "mean-velocity"
        assert found["LeMiCa rule"].forecaster == found["uniform"].forecaster == "reuse"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return demo.load()


def _latents(pipe: Any, steps: int) -> np.ndarray:
    call = {**demo.CALL, "num_inference_steps": steps, "output_type": "latent"}
    generator = torch.Generator().manual_seed(3)
    found: np.ndarray = pipe("a red circle", generator=generator, **call)[0].numpy()
    return found


@pytest.fixture(scope="module")
def exchanged(pipe: Any) -> dict[str, Method]:
    return {m.name: m for m in _rows(pipe, 5, demo.CALL, ("a blue square",))}


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_other_samplers_are_the_arenas_and_their_calls_are_counted(
    pipe: Any, exchanged: dict[str, Method], name: str
) -> None:
    row, own, budget = exchanged[SAMPLERS[name]], pipe.scheduler, 4
    plain = _latents(pipe, budget)
    with row.around(pipe, budget), accelerate(pipe, row.schedule(budget)) as run:
        made = _latents(pipe, budget)
    assert pipe.scheduler is own
    assert set(run.report.computed.values()) == {budget}
    baseline = Registry().create("baselines", name)
    (setting,) = baseline.settings(5, [budget], {})
    with baseline.apply(pipe, setting, {}):
        np.testing.assert_array_equal(_latents(pipe, budget), made)
    assert np.abs(made - plain).max() > 1e-2
    np.testing.assert_array_equal(_latents(pipe, budget), plain)
