"""Recurrences made by hand, found again, and the end of a span against a run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from otcache_core.identification import (
    EULER_LIMIT,
    LINEAR_LIMIT,
    euler_residual,
    identify,
    identify_differences,
)
from otcache_core.recurrence import NotLinear, Recurrence, SpanEnd
from otcache_core.trajectory import Trajectory

Floats = NDArray[np.float64]
N, D = 10, 200
GRID = np.linspace(1, 0.02, N + 1) ** 1.5
Step = Callable[[int, list[Floats], list[Floats]], Floats]


INNER = np.random.default_rng(7).normal(size=(D, D)) / np.sqrt(D)


def _field(x: Floats, i: int) -> Floats:
    """Return a smooth denoiser: its output changes slowly along a run."""
    return np.asarray(np.tanh(INNER @ x * (1 + GRID[i])) + np.sin(3 * GRID[i]))


def _run(step: Step, seed: int, outputs: Floats | None = None) -> Trajectory:
    """N steps from noise; ``outputs`` in place of what the denoiser would return."""
    xs, vs = [np.random.default_rng(seed).normal(size=D)], []
    for i in range(N):
        vs.append(_field(xs[i], i) if outputs is None else outputs[i])
        xs.append(step(i, xs, vs))
    return Trajectory(GRID, np.stack(xs), np.stack(vs))


def _linear(a: Floats, b: Floats) -> Step:
    def step(i: int, xs: list[Floats], vs: list[Floats]) -> Floats:
        lags = range(min(a.shape[1] - 1, i) + 1)
        return np.asarray(sum(a[i, q] * xs[i - q] + b[i, q] * vs[i - q] for q in lags))

    return step


def _euler(i: int, xs: list[Floats], vs: list[Floats]) -> Floats:
    return np.asarray(xs[i] + (GRID[i + 1] - GRID[i]) * vs[i])


def _adams_bashforth(i: int, xs: list[Floats], vs: list[Floats]) -> Floats:
    h = np.diff(GRID)
    bend = h[i] / h[i - 1] / 2 * (vs[i] - vs[i - 1]) if i else 0.0
    return np.asarray(xs[i] + h[i] * (vs[i] + bend))


def _dpm_solver(i: int, xs: list[Floats], vs: list[Floats]) -> Floats:
    """DPM-Solver++(2M), alpha = 1, from its paper's Algorithm 2, with x0 = x - s v."""
    s = GRID
    newest = xs[i] - s[i] * vs[i]
    if i:
        r = np.log(s[i - 1] / s[i]) / np.log(s[i] / s[i + 1])
        newest = newest + (newest - (xs[i - 1] - s[i - 1] * vs[i - 1])) / (2 * r)
    return np.asarray(s[i + 1] / s[i] * xs[i] + (1 - s[i + 1] / s[i]) * newest)


def _heun(i: int, xs: list[Floats], vs: list[Floats]) -> Floats:
    """Heun as diffusers counts it: Euler on even steps, the mean of two slopes on odd ones."""
    if i % 2 == 0:
        return np.asarray(xs[i] + 0.1 * vs[i])
    return np.asarray(xs[i - 1] + 0.05 * (vs[i - 1] + vs[i]))


def _end(made: SpanEnd, xs: Floats, vs: Floats, k: int, u: Floats) -> Floats:
    older = sum(a * xs[k + 1 - q] for q, a in enumerate(made.states))
    return np.asarray(
        older + sum(b * vs[k - q] for q, b in enumerate(made.outputs)) + made.reach * u
    )


SAMPLERS = {
    "euler": (_euler, 0),
    "adams-bashforth": (_adams_bashforth, 1),
    "dpm-solver": (_dpm_solver, 1),
    "heun": (_heun, 1),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_known_samplers_are_found_with_the_ends_of_spans(name: str) -> None:
    step, order = SAMPLERS[name]
    found = identify([_run(step, seed) for seed in (0, 1)])
    assert isinstance(found, Recurrence)
    assert (found.order, found.undetermined) == (order, ())
    assert (found.grid is not None) == (name == "euler")
    assert found.residual <= LINEAR_LIMIT
    for k, j in ((0, 3), (3, 5), (4, 9), (2, N)):
        u = np.random.default_rng(9).normal(size=D)
        outputs = _run(step, 5).outputs.copy()
        outputs[k + 1 : j] = u
        run = _run(step, 5, outputs)
        ours = _end(found.span_end(k, j), run.states, run.outputs, k, u)
        np.testing.assert_allclose(ours, run.states[j], atol=1e-5)


@given(order=st.integers(0, 3), seed=st.integers(0, 10_000))
def test_any_recurrence_is_found_again_with_its_order(order: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    a = random.uniform(-0.3, 0.3, (N, order + 1)) + np.eye(1, order + 1)
    b = random.uniform(0.1, 0.5, (N, order + 1)) * random.choice([-1, 1], (N, order + 1))
    a, b = (np.where(np.arange(N)[:, None] >= np.arange(order + 1), c, 0.0) for c in (a, b))
    outputs = random.normal(size=(2, N, D))
    found = identify([_run(_linear(a, b), n, outputs[n]) for n in range(2)])
    assert isinstance(found, Recurrence)
    assert found.order == order
    assert found.undetermined == ()
    # The first steps are collinear by the sampler's own doing; behind them every number is determined.
    loose = 2 * order + 1
    np.testing.assert_allclose(found.states[loose:], a[loose:], atol=1e-6)
    np.testing.assert_allclose(found.outputs[loose:], b[loose:], atol=1e-6)
    output_weights = found.output_weights()
    nudged = outputs[0].copy()
    nudged[8] += 1.0
    ends = [_run(_linear(a, b), 3, some).states[-1] for some in (outputs[0], nudged)]
    np.testing.assert_allclose(
        ends[1] - ends[0], output_weights[8], atol=1e-5 * (1 + abs(output_weights[8]))
    )
    k, j = 1 + seed % 4, 6 + seed % 5
    u = random.normal(size=D)
    outputs[0, k + 1 : j] = u
    run = _run(_linear(a, b), 3, outputs[0])
    ours = _end(found.span_end(k, j), run.states, run.outputs, k, u)
    np.testing.assert_allclose(ours, run.states[j], atol=1e-6 * np.abs(run.states).max())


def test_euler_gives_the_grid_itself() -> None:
    found = identify([_run(_euler, 0)])
    assert isinstance(found, Recurrence)
    assert found.grid is GRID
    np.testing.assert_array_equal(found.outputs[:, 0], np.diff(GRID))
    np.testing.assert_array_equal(found.output_weights(), np.diff(GRID))
    shares = tuple(np.diff(GRID)[3:7] / (GRID[7] - GRID[3]))
    assert found.span_end(2, 7) == SpanEnd((1.0,), (), float(GRID[7] - GRID[3]), False, shares)


def _noisy(i: int, xs: list[Floats], vs: list[Floats]) -> Floats:
    kick = np.random.default_rng(int(1e6 * abs(xs[i][0]))).normal(size=D)
    return np.asarray(_euler(i, xs, vs) + 0.05 * kick)


def _clipping(i: int, xs: list[Floats], vs: list[Floats]) -> Floats:
    return np.asarray(np.clip(_dpm_solver(i, xs, vs), -1, 1))


def _looking_back_far(i: int, xs: list[Floats], vs: list[Floats]) -> Floats:
    return np.asarray(_euler(i, xs, vs) + (0.1 * vs[i - 5] if i >= 5 else 0.0))


@pytest.mark.parametrize("step", [_noisy, _clipping, _looking_back_far])
def test_what_is_not_linear_is_refused_in_words(step: Step) -> None:
    found = identify([_run(step, seed) for seed in (0, 1)])
    assert isinstance(found, NotLinear)
    assert found.residual > LINEAR_LIMIT
    assert "not a linear combination of the last 4 states and outputs" in found.reason
    assert "adds noise, clips, or looks back further" in found.reason


def test_too_few_numbers_are_refused_in_words() -> None:
    run = _run(_dpm_solver, 0)
    found = identify([Trajectory(GRID, run.states[:, :6], run.outputs[:, :6])])
    assert found == NotLinear("6 numbers a step are too few to identify the sampler", np.inf)


def test_few_numbers_allow_small_orders_only() -> None:
    run = _run(_dpm_solver, 0)
    found = identify([Trajectory(GRID, run.states[:, :18], run.outputs[:, :18])])
    assert isinstance(found, Recurrence)
    assert found.order == 1
    few = identify([Trajectory(GRID, run.states[:, :12], run.outputs[:, :12])])
    assert isinstance(few, NotLinear)
    assert "more samples would allow longer ones" in few.reason


def test_states_in_the_direction_of_outputs_leave_coefficients_open() -> None:
    base = np.random.default_rng(0).normal(size=D)
    v = np.sin(np.arange(N))[:, None] * base
    x = [base]
    for i in range(N):
        x.append(0.9 * x[i] - 0.2 * v[i])
    found = identify([Trajectory(GRID, np.stack(x), v)])
    assert isinstance(found, Recurrence)
    assert found.undetermined
    assert "steps have coefficients that these runs do not determine" in str(found)
    assert np.isfinite(found.states).all()


@pytest.mark.parametrize(("step", "order"), [(_euler, 0), (_adams_bashforth, 1)])
def test_a_lag_that_hides_in_the_rounding_is_found_by_least_squares(step: Step, order: int) -> None:
    """Rounded to 8 bits the sampler; both pass for Euler by what a step leaves."""

    def rounded(i: int, xs: list[Floats], vs: list[Floats]) -> Floats:
        mantissa, exponent = np.frexp(step(i, xs, vs))
        return np.ldexp(np.round(mantissa * 2**8) / 2**8, exponent)

    runs = [_run(rounded, seed) for seed in range(6)]
    runs = [Trajectory(GRID, t.states, t.outputs, rounding=2.0**-7) for t in runs]
    assert euler_residual(runs) <= EULER_LIMIT
    found = identify(runs)
    assert isinstance(found, Recurrence)
    assert (found.grid is not None) == (order == 0)
    assert found.order >= order


def test_opposite_impulses_leave_nothing_to_move() -> None:
    b = np.zeros((N, 2))
    b[3, 0], b[4, 0] = 1.0, -1.0
    a = np.concatenate([np.ones((N, 1)), np.zeros((N, 1))], axis=1)
    made = Recurrence(a, b, 0.0)
    assert made.span_end(2, 5).singular
    assert not made.span_end(2, 4).singular
    flat = Recurrence.euler(np.array([1.0, 0.5, 0.5, 0.5]))
    assert flat.span_end(0, 3).singular


@pytest.mark.parametrize("draw", range(20))
def test_rounding_of_float32_on_few_numbers_is_no_further_lag(draw: int) -> None:
    """28 numbers more than coefficients: by chance two further lags explain much of their rounding."""
    grid = np.linspace(1, 0, 25)
    rng, h = np.random.default_rng(draw), np.diff(grid).astype(np.float32)
    turn = rng.normal(size=(8, 8)).astype(np.float32)
    runs = []
    for _ in range(4):
        xs, vs = [rng.normal(size=8).astype(np.float32)], []
        for i in range(24):
            vs.append(np.tanh(turn @ xs[i]) * (1 + np.float32(grid[i])))
            bend = h[i] / h[i - 1] / 2 * (vs[i] - vs[i - 1]) if i else np.float32(0)
            xs.append(xs[i] + h[i] * (vs[i] + bend))
        runs.append(Trajectory(grid, np.stack(xs), np.stack(vs), rounding=2.0**-24))
    found = identify(runs)
    assert isinstance(found, Recurrence)
    assert found.order == 1


def _seeded(step: Step, seed: int, at: int = N) -> Step:
    """Return a sampler with noise of its seed at every step; what it does after step ``at`` is not linear."""
    noise = np.random.default_rng([seed, 7]).normal(size=(N, D))

    def noisy(i: int, xs: list[Floats], vs: list[Floats]) -> Floats:
        made = step(i, xs, vs) + 0.1 * noise[i]
        return np.asarray(made + 0.3 * np.tanh(3 * made) if i == at else made)

    return noisy


def _pairs(step: Step, at: int = N) -> tuple[list[Trajectory], list[Trajectory]]:
    full, shuffled = [], []
    for seed in range(4):
        run = _run(_seeded(step, seed, at), seed)
        moved = np.arange(N) + np.random.default_rng(seed).integers(-3, 4, N)
        order = np.clip(moved, 0, N - 1)
        full.append(run)
        shuffled.append(_run(_seeded(step, seed, at), seed, run.outputs[order]))
    return full, shuffled


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_of_the_seed_cancels_in_differences(name: str) -> None:
    step, order = SAMPLERS[name]
    full, shuffled = _pairs(step)
    assert isinstance(identify([*full, *shuffled]), NotLinear)
    found = identify_differences(full, shuffled)
    assert isinstance(found, Recurrence)
    assert (found.order, found.noisy) == (order, True)


@pytest.mark.parametrize("at", range(2, N))
def test_differences_hide_no_step_that_is_not_linear(at: int) -> None:
    full, shuffled = _pairs(_euler, at)
    assert isinstance(identify_differences(full, shuffled), NotLinear)
