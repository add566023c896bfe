"""EasyCache, SenCache and dynamic modes: each rule run by hand, with every state and output kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from flux_kit import FluxLaws
from torch import Tensor, nn

from otcache_core.contracts import Baseline, SampleRequest
from otcache_core.errors import ExecutionError
from otcache_core.loop import Loop
from otcache_core.plugins import Registry
from otcache_diffusers.baselines.dynamic_modes import (
    DynamicModes,
    fitted,
    spaced_steps,
    uniform_tail,
)
from otcache_diffusers.baselines.easycache import EasyCache, EasyCacheRule, first_channels
from otcache_diffusers.baselines.sencache import SenCache, Sensitivity, computed

N = 14
GRID = torch.linspace(1, 0, N + 1, dtype=torch.float64) ** 1.5
REQUEST = SampleRequest(("a", "b"), (0, 1), N)


class Field(nn.Module):
    """A velocity that is linear in nothing; counts the steps it is called at."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[float] = []

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        self.called.append(float(s))
        return torch.tanh(x.flip(-1) * (1 + s)) + torch.sin(3 * s)


def start(seeds: list[int]) -> Tensor:
    rows = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(8, generator=g, dtype=torch.float64) for g in rows])


def make_loop(field: nn.Module, branches: int = 1) -> Loop:
    """Return an Euler loop; a second branch sees the state doubled, and counts a fifth."""

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> Tensor:
        x = start(seeds)
        for i in range(num_steps):
            v = field(x, GRID[i])
            if branches == 2:
                v = v + 0.2 * field(2 * x, GRID[i])
            x = x + (GRID[i + 1] - GRID[i]) * v
        return x

    return Loop(sample, field, grid=GRID.tolist(), calls_per_step=branches)


def run(baseline: Baseline, values: dict[str, Any], measured: dict[str, Any], branches: int) -> Any:
    """Run a setting; return the result, and which steps were computed."""
    field = Field()
    target = make_loop(field, branches)
    (one,) = [s for s in settings(baseline, measured) if dict(s.values) == values] or [None]
    assert one is not None
    with baseline.apply(target, one, measured):
        made = target(["a"], [3], N)
    return made, sorted({int((s == GRID).nonzero()) for s in field.called})


def settings(baseline: Baseline, measured: dict[str, Any]) -> Any:
    return baseline.settings(N, (3, 5, 8), measured)


Decide = Callable[[int, list[Tensor], dict[int, list[Tensor]]], bool]


def by_hand(branches: int, decide: Decide, residual: bool) -> tuple[Tensor, list[int]]:
    """Sample by a rule that sees states and computed outputs so far; return the computed steps beside."""
    field, x = Field(), [start([3])]
    known: dict[int, list[Tensor]] = {}
    for i in range(N):
        factors = [1, 2][:branches]
        if decide(i, x, known):
            v = known[i] = [field(f * x[i], GRID[i]) for f in factors]
        else:
            k = max(known)
            shifts = [f * (x[i] - x[k]) * residual for f in factors]
            v = [output + shift for output, shift in zip(known[k], shifts, strict=True)]
        guided = v[0] + (0.2 * v[1] if branches == 2 else 0)
        x.append(x[i] + (GRID[i + 1] - GRID[i]) * guided)
    return x[N], sorted(known)


# -- EasyCache ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("rung", [8, 10, 12])
def test_easycache_is_its_rule(branches: int, rung: int) -> None:
    theta = settings(EasyCache(), {})[rung].values["threshold"]
    total = 0.0

    def decide(i: int, x: list[Tensor], v: dict[int, list[Tensor]]) -> bool:
        nonlocal total
        if i < 2 or i == N - 1:
            total = 0.0
            return True
        k_1, k = sorted(v)[-2:]
        rate = (v[k][0] - v[k_1][0]).abs().mean() / (x[k] - x[k_1]).abs().mean()
        total += float(rate * (x[i] - x[i - 1]).abs().mean() / v[k][0].abs().mean())
        if total < theta:
            return False
        total = 0.0
        return True

    wanted, steps = by_hand(branches, decide, residual=True)
    got, called = run(EasyCache(), {"threshold": theta}, {}, branches)
    assert called == steps
    assert 3 < len(steps) < N
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


def test_easycache_adds_predicted_changes_up() -> None:
    """Rate 2, output 1: moves of 0.1 predict 0.2 each; 0.5 is reached by the third."""
    rule = EasyCacheRule(threshold=0.5, warm_up=2, last=9)
    assert [rule.computes(0, 0.0), rule.computes(1, 0.1)] == [True, True]
    assert rule.computes(2, 0.1)  # no rate yet
    rule.learn(1.0, 0.2, 0.1)
    assert [rule.computes(t, 0.1) for t in range(2, 8)] == [False, False, True] * 2
    assert rule.computes(9, 0.0)
    rule.learn(1.0, 0.4, 0.0)  # the state did not move: the rate stays
    assert rule.rate == 2.0


def test_the_first_channels_of_a_state_are_the_output_s() -> None:
    state = torch.arange(24.0).reshape(2, 6, 2)
    assert first_channels(state, state) is state or torch.equal(first_channels(state, state), state)
    part = first_channels(state, torch.zeros(2, 4, 2))
    assert part is not None
    assert torch.equal(part, state[:, :4])
    for shape in [(2, 8, 2), (1, 6, 2), (2, 4, 1), (2, 6)]:
        assert first_channels(state, torch.zeros(*shape)) is None


# -- SenCache -----------------------------------------------------------------------------------------


def sensitivities(seed: int) -> tuple[list[tuple[float, float]], list[Tensor]]:
    """Return J of each step of a full run, by calls of the field itself, and the states."""
    field, x = Field(), [start([seed])]
    for i in range(N):
        x.append(x[i] + (GRID[i + 1] - GRID[i]) * field(x[i], GRID[i]))

    def far(a: Tensor, b: Tensor) -> float:
        return float((a - b).square().mean().sqrt())

    rows = []
    for i in range(N - 1):
        v = field(x[i], GRID[i])
        state = far(field(x[i + 1], GRID[i]), v) / far(x[i + 1], x[i])
        time = far(field(x[i], GRID[i + 1]), v) / float(GRID[i] - GRID[i + 1])
        rows.append((state, time))
    return [*rows, rows[-1]], x[:N]


def test_sencache_measures_what_calls_of_the_denoiser_give() -> None:
    measured = SenCache().calibrate(make_loop(Field()), REQUEST, (3, 5, 8))
    assert json.loads(json.dumps(measured)) == measured
    runs = [sensitivities(seed) for seed in (0, 1)]
    wanted = np.mean([rows for rows, _ in runs], axis=0)
    np.testing.assert_allclose(measured["state"], wanted[:, 0], rtol=1e-5)
    np.testing.assert_allclose(measured["time"], wanted[:, 1], rtol=1e-5)
    x = runs[1][1]
    far = float((x[9] - x[4]).square().mean().sqrt())
    assert measured["moved"][1][9][4] == pytest.approx(far, rel=1e-6)
    assert measured["nfe"] == 2 * (N + 2 * (N - 1))
    two = SenCache().calibrate(make_loop(Field(), 2), REQUEST, (3,))
    assert two["nfe"] == 2 * (N + N - 1)  # the second branch is not called beside
    assert two["time"][0] == pytest.approx(measured["time"][0])  # of the same state


@pytest.mark.parametrize("branches", [1, 2])
def test_sencache_is_its_rule(branches: int) -> None:
    measured = SenCache().calibrate(make_loop(Field(), branches), REQUEST, (3, 5, 8))
    ladder = settings(SenCache(), measured)
    counts = []
    for one in ladder:

        def decide(
            i: int,
            x: list[Tensor],
            v: dict[int, list[Tensor]],
            theta: float = one.values["tolerance"],
        ) -> bool:
            if not v:
                return True
            k = max(v)
            moved = float((x[i] - x[k]).square().mean().sqrt())
            change = measured["state"][k] * moved
            return change + measured["time"][k] * float(GRID[k] - GRID[i]) >= theta

        wanted, steps = by_hand(branches, decide, residual=False)
        got, called = run(SenCache(), dict(one.values), measured, branches)
        assert called == steps
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
        counts.append(len(steps))
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 3


def test_the_steps_of_a_known_run_follow_from_its_states() -> None:
    """By hand: each step away costs 1 of state and 1 of time, twice that from step 2 on."""
    table = [Sensitivity(1.0, 1.0)] * 2 + [Sensitivity(2.0, 2.0)] * 4
    grid = -np.arange(7.0)
    moved = np.abs(np.subtract.outer(np.arange(6.0), np.arange(6.0)))
    assert computed(table, grid, moved, 4.0) == [0, 2, 3, 4, 5]
    assert computed(table, grid, moved, 4.1) == [0, 3, 5]
    assert computed(table, grid, moved, 99.0) == [0]


@pytest.mark.remedy("no sampler to calibrate on: wrap it in otcache.loop(...)", value=True)
def test_what_cannot_be_run_has_a_reason() -> None:
    baseline = SenCache()
    assert "wrap it in otcache.loop" in baseline.supports(Field(), REQUEST)
    assert "2 steps or more" in baseline.supports(
        make_loop(Field()), SampleRequest(("a",), (0,), 1)
    )
    target, measured = make_loop(Field()), SenCache().calibrate(make_loop(Field()), REQUEST, (3,))
    one = baseline.settings(N, (3,), measured)[0]
    with pytest.raises(ExecutionError, match="what calibrate"), baseline.apply(target, one, {}):
        pass
    short = {**measured, "state": measured["state"][:3], "time": measured["time"][:3]}
    with (
        baseline.apply(target, one, short),
        pytest.raises(ExecutionError, match="steps of a run must be 3, of which"),
    ):
        target(["a"], [0], N)


@pytest.mark.remedy("no argument of it is a tensor: give the state as one.")
def test_a_denoiser_without_a_tensor_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, step: int) -> Tensor:
            return torch.ones(1, 2) * step

    odd = Odd()

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> Tensor:
        return sum((odd(i) for i in range(num_steps)), torch.zeros(1, 2))

    target = Loop(sample, odd, grid=GRID.tolist())
    one = EasyCache().settings(N, (3,), {})[0]
    with EasyCache().apply(target, one, {}), pytest.raises(ExecutionError, match="give the state"):
        target(["a"], [0], N)


# -- dynamic modes ------------------------------------------------------------------------------------


def decomposed(outputs: np.ndarray, ahead: float) -> np.ndarray:
    """Return the textbook's forecast from columns v_0 .. v_n: by the SVD of the columns themselves."""
    X, after = outputs[:, :-1], outputs[:, 1:]
    U, S, Vh = np.linalg.svd(X, full_matrices=False)
    r = int((1e-4 * S[0] < S).sum())
    U, S, V = U[:, :r], S[:r], Vh[:r].T
    values, W = np.linalg.eig(U.T @ after @ V / S)
    modes = (after @ V / S) @ W
    b = np.linalg.lstsq(modes, outputs[:, -1].astype(complex), rcond=None)[0]
    return (modes @ (values.astype(complex) ** ahead * b)).real


@pytest.mark.parametrize("count", [4, 5, 6])
@pytest.mark.parametrize("ahead", [0.25, 1.0, 1.6])
def test_modes_by_inner_products_are_those_of_the_outputs(count: int, ahead: float) -> None:
    v = np.random.default_rng(count).standard_normal((40, count)) + 3
    modes = fitted(v.T @ v)
    assert modes is not None
    np.testing.assert_allclose(
        v[:, 1:] @ modes.coefficients(ahead), decomposed(v, ahead), rtol=1e-6
    )


def test_sums_of_exponentials_are_met() -> None:
    """Two decays and one damped oscillation, which takes two modes."""
    rng, t = np.random.default_rng(0), np.arange(6)
    parts = rng.standard_normal((4, 30))

    def at(t: Any) -> Any:
        decays = np.multiply.outer(parts[0], 0.9**t) + np.multiply.outer(parts[1], 0.6**t)
        wave = np.multiply.outer(parts[2], np.cos(t)) + np.multiply.outer(parts[3], np.sin(t))
        return decays + 0.95**t * wave

    v = at(t)
    modes = fitted(v.T @ v)
    assert modes is not None
    for ahead in (0.3, 1.0, 2.0):
        got = v[:, 1:] @ modes.coefficients(ahead)
        np.testing.assert_allclose(got, at(np.float64(5 + ahead)), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_decomposed_is_left_to_the_last_output() -> None:
    assert fitted(np.zeros((4, 4))) is None
    assert fitted(np.full((4, 4), np.nan)) is None


def test_steps_are_few_first_ones_and_then_at_equal_gaps() -> None:
    """As the source decides: a step is computed among the first f, or g - 1 forecasts after the last."""
    for n in (6, 12, 30, 50):
        for budget in range(1, n + 1):
            steps = spaced_steps(n, budget)
            assert len(steps) == budget
            first = next((t for t, k in enumerate(steps) if t != k), len(steps))
            gaps = set(np.diff(steps[max(0, first - 1) :]).tolist())
            assert len(gaps - {steps[first] - steps[first - 1]} if first < budget else set()) == 0
    assert spaced_steps(30, 5) == (0, 1, 9, 17, 25)
    assert [uniform_tail(s) for s in ([0], [0, 4], [0, 1, 9, 17], [0, 2, 4])] == [1, 2, 3, 3]


def test_a_run_is_the_rule_for_each_sample_of_a_batch() -> None:
    """Reuse, half the slope, then modes once four outputs lie at equal gaps."""
    one = DynamicModes().settings(N, (5,), {})[0]
    steps = one.computed
    assert steps == (0, 1, 5, 9, 13)
    field = Field()
    target = make_loop(field)
    with DynamicModes().apply(target, one, {}):
        both = target(["a", "b"], [3, 4], N)
    for row, seed in enumerate((3, 4)):
        x, v, known = start([seed]), {}, []
        for i in range(N):
            if i in steps:
                v[i] = field(x, GRID[i])
                known.append(i)
            else:
                newest, distance = v[known[-1]], i - known[-1]
                tail = known[1:]
                if len(tail) >= 4:
                    rows = np.stack([v[k].numpy().ravel() for k in tail], axis=1)
                    output = torch.from_numpy(decomposed(rows, distance / 4)).reshape(1, -1)
                else:
                    slope = (newest - v[known[-2]]) / (known[-1] - known[-2])
                    output = newest + 0.5 * distance * slope
                v[i] = output
            x = x + (GRID[i + 1] - GRID[i]) * v[i]
        torch.testing.assert_close(both[row : row + 1], x, rtol=1e-6, atol=1e-6)


def test_modes_forecast_the_last_span_of_a_longer_tail() -> None:
    """Outputs that decay by the step are met once there are four of them."""

    class Decay(nn.Module):
        def forward(self, x: Tensor, i: Tensor) -> Tensor:
            return torch.stack([torch.ones(3) * 0.9**i, torch.arange(3.0) * 0.7**i]).double()

    decay, seen = Decay(), []

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> Tensor:
        x = torch.zeros(2, 3, dtype=torch.float64)
        for i in range(num_steps):
            seen.append(decay(x, torch.tensor(float(i))))
            x = x + seen[-1]
        return x

    target = Loop(sample, decay)
    one = DynamicModes().settings(N, (7,), {})[0]
    assert one.computed == (0, 2, 4, 6, 8, 10, 12)
    with DynamicModes().apply(target, one, {}):
        target(["a"], [0], N)
    wanted = decay(torch.zeros(1), torch.tensor(9.0))
    torch.testing.assert_close(seen[9], wanted, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(seen[3], decay(torch.zeros(1), torch.tensor(3.0)), rtol=1e-3)


class TestEasyCacheLaws(FluxLaws):
    name = "easycache"


class TestSenCacheLaws(FluxLaws):
    name = "sencache"


class TestDynamicModesLaws(FluxLaws):
    name = "hicache-dmd"


@pytest.mark.parametrize("name", ["easycache", "sencache", "hicache-dmd"])
def test_the_mildest_setting_of_a_pipeline_computes_as_before(name: str) -> None:
    """Or nearly: with a whole budget nothing is forecast."""
    case = tiny.with_prompts(tiny.flux(cfg=True))
    call = {n: v for n, v in case.call.items() if n != "prompt"}
    baseline = Registry().create("baselines", name)
    measured = baseline.calibrate(case.pipe, SampleRequest(("red", "blue"), (0, 1), 6, call), (6,))
    plain = case(steps=6)
    mildest = baseline.settings(6, (6,), measured)[0]
    if name == "sencache":
        mildest = type(mildest)("0", {"tolerance": 0.0}, 6)
    with baseline.apply(case.pipe, mildest, measured):
        assert torch.equal(case(steps=6), plain) or name == "easycache"
