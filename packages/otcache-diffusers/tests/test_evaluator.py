"""The evaluator against runs made the plain way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from otcache_core.contracts import SampleRequest
from otcache_core.errors import OtcacheError
from otcache_core.loop import Loop
from otcache_core.schedule import Schedule
from otcache_core.trajectory import Trajectory
from otcache_diffusers.evaluation.evaluator import PipelineEvaluator
from otcache_diffusers.evaluation.fit import ClosedLoopFit
from otcache_diffusers.evaluation.replay import known_prefix
from otcache_diffusers.evaluation.schedule_runs import Prefixes

N = 8
GRID = np.linspace(1, 0, N + 1) ** 1.5


class Field(nn.Module):
    """A smooth nonlinear velocity in float64; counts the rows it computes."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Parameter(torch.randn(6, 6, generator=generator, dtype=torch.float64))
        self.rows = 0

    def forward(self, x: torch.Tensor, s: float) -> torch.Tensor:
        """v(x, s)."""
        self.rows += len(x)
        return torch.tanh(x @ self.inner * (1 + s))


def _sample(field: Field, seeds: list[int], schedule: Schedule | None = None) -> torch.Tensor:
    """Euler; with a schedule, reuse by hand."""
    x = torch.stack(
        [
            torch.randn(6, generator=torch.Generator().manual_seed(s), dtype=torch.float64)
            for s in seeds
        ]
    )
    v = torch.zeros_like(x)
    with torch.no_grad():
        for i in range(N):
            if schedule is None or i in schedule.computed:
                v = field(x, float(GRID[i]))
            x = x + (GRID[i + 1] - GRID[i]) * v
    return x


@pytest.fixture
def field() -> Field:
    return Field()


@pytest.fixture
def built(field: Field) -> PipelineEvaluator:
    return _evaluator(field)


def _evaluator(field: Field, fit: ClosedLoopFit | None = None) -> PipelineEvaluator:
    loop = Loop(lambda prompts, seeds, n: _sample(field, seeds), field, grid=GRID)
    request = SampleRequest(("a",) * 3, (0, 1, 2), N, batch_size=4)
    blank = np.zeros((N + 1, 6), np.float32)
    trajectories = [Trajectory(GRID, blank, blank[:N]) for _ in range(3)]
    return PipelineEvaluator(loop, request, trajectories, fit=fit)


def _schedules() -> list[Schedule]:
    steps = [(0, 1, 2, 6), (0, 3, 5), (0, 1, 2, 3, 4, 6), (0,), (0, 1, 6), tuple(range(N))]
    return [Schedule(N, s) for s in steps]


def test_prefix() -> None:
    assert [known_prefix(s) for s in _schedules()] == [3, 1, 5, 1, 2, N]


def test_errors_equal_plain_runs(field: Field, built: PipelineEvaluator) -> None:
    full = _sample(field, [0, 1, 2])
    expected = [
        (_sample(field, [0, 1, 2], s) - full).square().mean(1).sqrt().numpy() for s in _schedules()
    ]
    done = built.evaluate(_schedules())
    np.testing.assert_allclose(done.errors, expected, atol=1e-12)
    np.testing.assert_allclose(np.diagonal(done.gram), (done.errors**2).mean(1), atol=1e-15)
    assert (done.errors[-1] == 0).all()


def test_only_live_steps_are_paid(field: Field, built: PipelineEvaluator) -> None:
    built.evaluate([Schedule.full(N)])
    field.rows = 0
    done = built.evaluate(_schedules())
    assert done.nfe == field.rows == 3 * (1 + 2 + 1 + 0 + 1 + 0)


def test_the_recording_pass_is_no_part_of_the_cost(built: PipelineEvaluator) -> None:
    assert built.evaluate([Schedule(N, (0,))]).nfe == 0


def test_schedules_that_begin_alike_share_outputs(field: Field, built: PipelineEvaluator) -> None:
    base = Schedule(N, (0, 2, 4, 6)).with_weights([(0.1,), (0.2, 0.1), (0.1, 0.2), (0.3, 0.0)])
    other_end = base.with_weights([*base.weights[:3], (0.5, 0.5)])
    other_middle = base.with_weights([base.weights[0], (0.5, 0.5), *base.weights[2:]])
    schedules = [other_middle, base, other_end, base]
    built.evaluate([Schedule.full(N)])
    field.rows = 0
    done = built.evaluate(schedules)
    assert done.nfe == field.rows == 3 * (3 + 2)  # steps 2, 4, 6, and 4, 6 after other weights
    alone = [built.evaluate([schedule]).errors[0] for schedule in schedules]
    np.testing.assert_allclose(done.errors, alone, atol=1e-12)


def test_nothing_is_shared_where_a_branch_has_other_steps() -> None:
    plain = Schedule(N, (0, 2, 4))
    other = Schedule(N, (0, 2, 4), branches=(("uncond", (0, 4)),))
    prefixes = Prefixes([plain, other], fit=False)
    assert list(prefixes.rounds()) == [[0, 1]]


def test_sharing_changes_no_fit(built: PipelineEvaluator) -> None:
    schedules = [Schedule(N, (0, 2, 4)), Schedule(N, (0, 2, 5)), Schedule(N, (0, 2, 4, 6))]
    together = built.evaluate(schedules, fit=True)
    assert together.nfe == 3 * (2 + 1 + 1)
    for schedule, fitted, errors in zip(
        schedules, together.schedules, together.errors, strict=True
    ):
        alone = built.evaluate([schedule], fit=True)
        assert alone.schedules[0].computed == fitted.computed
        for a, b in zip(alone.schedules[0].weights, fitted.weights, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-10)
        np.testing.assert_allclose(alone.errors[0], errors, atol=1e-12)


def test_drift_follows_the_states(field: Field, built: PipelineEvaluator) -> None:
    schedules = _schedules()
    found = built.drift(schedules)
    assert found.errors.shape == (len(schedules), 3, N + 1)
    assert (found.errors[:, :, 0] == 0).all()
    assert (found.errors[-1] == 0).all()
    np.testing.assert_allclose(found.errors[:, :, -1], built.evaluate(schedules).errors)
    assert found.nfe == built.evaluate(schedules).nfe


def test_a_subset_of_samples(built: PipelineEvaluator) -> None:
    schedules = _schedules()
    every = built.evaluate(schedules, objective="latent-l1").errors
    some = built.evaluate(schedules, objective="latent-l1", samples=[2, 0]).errors
    np.testing.assert_allclose(some, every[:, [2, 0]], atol=1e-14)


def test_fitted_weights_are_found_and_reproduce_the_error(field: Field) -> None:
    built = _evaluator(field, fit=ClosedLoopFit(cross_validate=False))
    schedules = [Schedule(N, (0, 2, 5)), Schedule(N, (0, 1, 3, 6))]
    fitted = built.evaluate(schedules, fit=True)
    assert [s.forecaster for s in fitted.schedules] == ["fitted", "fitted"]
    assert [len(w) for w in fitted.schedules[0].weights] == [1, 2, 3]
    again = built.evaluate(fitted.schedules)
    np.testing.assert_allclose(again.errors, fitted.errors, atol=1e-12)
    assert (again.errors.mean(1) < 0.5 * built.evaluate(schedules).errors.mean(1)).all()


@pytest.mark.parametrize(
    ("samples", "fit"), [(2, ClosedLoopFit(ridges=(0.1,))), (3, ClosedLoopFit())]
)
def test_the_error_of_a_fit_is_that_of_samples_it_never_saw(
    field: Field, samples: int, fit: ClosedLoopFit
) -> None:
    """With one span that skips, leaving a sample out is fitting on the others and running it.

    Of two samples the other one alone leaves no choice of lambda, so there is none here.
    """
    built = _evaluator(field, fit=fit)
    schedule, every = Schedule(N, (0, 1, 2, 3)), range(samples)
    errors = built.evaluate([schedule], fit=True, samples=every).errors[0]
    for n in every:
        others = built.evaluate([schedule], fit=True, samples=[m for m in every if m != n])
        alone = built.evaluate(others.schedules, samples=[n]).errors[0, 0]
        np.testing.assert_allclose(errors[n], alone, rtol=1e-9)


def test_one_sample_is_fitted_closely_without_ridge(field: Field) -> None:
    loop = Loop(lambda p, s, n: _sample(field, s), field, grid=GRID)
    request = SampleRequest(("a",), (0,), N)
    blank = np.zeros((N + 1, 6), np.float32)
    built = PipelineEvaluator(
        loop,
        request,
        [Trajectory(GRID, blank, blank[:N])],
        fit=ClosedLoopFit(memory=3, ridges=(0.0,)),
    )
    reuse = built.evaluate([Schedule(N, (0, 1, 4))]).errors
    assert built.evaluate([Schedule(N, (0, 1, 4))], fit=True).errors < 0.2 * reuse


def test_an_unknown_objective_is_named(built: PipelineEvaluator) -> None:
    with pytest.raises(OtcacheError, match="latent-rmse, latent-l1"):
        built.evaluate([Schedule.full(N)], objective="beauty")


def test_samples_and_trajectories_must_agree(field: Field) -> None:
    loop = Loop(lambda p, s, n: _sample(field, s), field, grid=GRID)
    with pytest.raises(OtcacheError, match="one per sample"):
        PipelineEvaluator(loop, SampleRequest(("a",), (0,), N), [])
