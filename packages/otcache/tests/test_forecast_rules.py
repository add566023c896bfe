"""Spectrum's windows, and L2P's training and unrolled forecasts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from otcache.comparison.forecast_rules import (
    STEPS,
    PerStepWeights,
    growing_windows,
    mean_gram,
    trained,
    windows_for,
)
from otcache_core import Schedule
from otcache_core.testing import ForecasterConformance, ToySampler

N = 12
ROWS = [np.random.default_rng(t).normal(0, 0.5, t).tolist() for t in range(N)]


def as_released(num_steps: int, warm_up: int, window: float, growth: float) -> list[int]:
    """Decide step by step as the released transformers do, by a count of forecasts in a row."""
    found, cached = [], 0
    for step in range(num_steps):
        computes = step < warm_up or (cached + 1) % int(window) == 0
        if computes and step >= warm_up:
            window = round(window + growth, 3)
        cached = 0 if computes else cached + 1
        found += [step] * computes
    return found


@pytest.mark.parametrize("growth", [0.0, 0.3, 0.75, 3.0])
@pytest.mark.parametrize("first", [(5, 2), (3, 1), (1, 4)])
def test_windows_grow_as_released(first: tuple[int, int], growth: float) -> None:
    assert list(growing_windows(50, *first, growth)) == as_released(50, *first, growth)


def test_the_published_settings_compute_14_and_10_steps() -> None:
    assert [len(growing_windows(50, 5, 2, growth)) for growth in (0.75, 3.0)] == [14, 10]


@pytest.mark.parametrize("num_steps", [1, 2, 6, 30, 50])
def test_every_budget_has_windows(num_steps: int) -> None:
    for budget in range(1, num_steps + 1):
        Schedule(num_steps, windows_for(num_steps, budget))
        assert len(windows_for(num_steps, budget)) == budget
    assert windows_for(30, 6) == (0, 1, 2, 4, 9, 18)


class TestPerStepWeights(ForecasterConformance):
    num_steps = N

    def make_forecaster(self) -> PerStepWeights:
        return PerStepWeights(ROWS)


def test_forecasts_count_as_outputs_of_later_steps() -> None:
    """The rule run step by step on outputs: the history holds forecasts."""
    v = np.random.default_rng(0).standard_normal((N, 3))
    schedule = Schedule(N, (0, 3, 4, 8))
    history: list[np.ndarray] = []
    for t in range(N):
        known = t in schedule.computed
        history.append(v[t] if known else np.array(ROWS[t]) @ np.array(history))
    for span in schedule.spans():
        table = PerStepWeights(ROWS).coefficients(span, np.linspace(1, 0, N + 1))
        got = table @ v[[span.start, *span.history]]
        np.testing.assert_allclose(got, np.array(history)[list(span.skipped)], atol=1e-12)


def test_training_is_adam_on_the_outputs_themselves() -> None:
    """Train by torch on recorded outputs, not on their inner products."""
    runs = ToySampler(num_steps=8, num_samples=3).trajectories()
    outputs = torch.tensor(np.stack([run.outputs for run in runs]))
    weights = torch.eye(8, dtype=torch.float64).requires_grad_()
    mask = torch.ones(8, 8).tril()
    adam = torch.optim.Adam([weights], lr=0.01)
    for _ in range(201):
        adam.zero_grad()
        ahead = ((weights * mask) @ outputs)[:, :-1]
        (ahead - outputs[:, 1:]).pow(2).mean().backward()
        adam.step()
    rows = trained(mean_gram(runs))
    assert [len(row) for row in rows] == list(range(8))
    for t in range(1, 8):
        np.testing.assert_allclose(rows[t], weights[t - 1, :t].detach(), atol=1e-5)


def test_the_published_steps_are_literal() -> None:
    assert [len(row) for row in STEPS.rows] == [6, 7, 8, 9, 10, 11]
    assert STEPS.schedule(9).computed == (0, 1, 2, 4, 9, 17, 26, 35, 43)
