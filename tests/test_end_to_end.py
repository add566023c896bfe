"""Calibrate, plan and accelerate through every package, on a loop around a bare module."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy import STEPS, make_loop

import otcache
from otcache.calibration import record as recording
from otcache.calibration import stages as calibration_stages
from otcache_core import Trajectory
from otcache_core.errors import OtcacheNotice
from otcache_core.identification import EULER_LIMIT, euler_residual, identify
from otcache_core.recurrence import Recurrence

RECIPE = otcache.Recipe(anchor_trials=6, climb_trials=4)
PROMPTS, SEEDS = ["a", "b"], [0, 1]


@pytest.fixture(scope="module")
def calibration() -> otcache.Calibration:
    return _calibrate()


def _calibrate(seeds_of_one: bool = False, **kwargs: Any) -> otcache.Calibration:
    loop = make_loop()
    kwargs.setdefault("recipe", RECIPE)
    seeds = [0] if seeds_of_one else SEEDS
    return otcache.calibrate(loop, PROMPTS, STEPS, seeds, progress=False, **kwargs)


@pytest.fixture(scope="module")
def policy(calibration: otcache.Calibration) -> otcache.Policy:
    return otcache.plan(calibration)


def _error(schedule: otcache.Schedule) -> float:
    loop = make_loop()
    seeds = list(range(100, 116))
    full = loop(["held out"] * 16, seeds, STEPS)
    with otcache.accelerate(loop, schedule):
        return float((loop(["held out"] * 16, seeds, STEPS) - full).detach().square().mean().sqrt())


@pytest.mark.parametrize("budget", [3, 4, 6])
def test_otcache_beats_uniform_reuse_on_held_out_seeds(policy: otcache.Policy, budget: int) -> None:
    steps = tuple(m * STEPS // budget for m in range(budget))
    assert _error(policy.schedule(budget)) < 0.5 * _error(otcache.Schedule(STEPS, steps))


def test_the_full_budget_changes_nothing(policy: otcache.Policy) -> None:
    assert _error(policy.schedule(STEPS)) == 0


@pytest.mark.parametrize("budget", range(1, STEPS + 1))
def test_exactly_the_budget_is_called(policy: otcache.Policy, budget: int) -> None:
    loop = make_loop()
    with otcache.accelerate(loop, policy.schedule(budget)) as run:
        loop(["a"], [0], STEPS)
    assert loop.denoiser.calls == budget
    assert sum(run.report.computed.values()) == budget
    assert sum(run.report.skipped.values()) == STEPS - budget


def test_the_same_calibration_twice_is_the_same(calibration: otcache.Calibration) -> None:
    again = _calibrate()
    assert again.ladder == calibration.ladder
    assert again.anchor == calibration.anchor
    np.testing.assert_array_equal(again.span_costs, calibration.span_costs)


def test_refinement_goes_on_from_a_finished_calibration(
    calibration: otcache.Calibration, tmp_path: Path
) -> None:
    _calibrate(directory=tmp_path)
    refined = _calibrate(directory=tmp_path, recipe=replace(RECIPE, refinement="gauss-newton"))
    spent = dict(refined.nfe)
    assert 0 < spent.pop("refinement") <= RECIPE.refine_runs * STEPS * len(PROMPTS) * len(SEEDS)
    assert spent == dict(calibration.nfe)
    changed = 0
    for before, after in zip(calibration.ladder, refined.ladder, strict=True):
        assert after.schedule.computed == before.schedule.computed
        if after.schedule != before.schedule:
            changed += 1
            assert (after.winner, before.schedule.forecaster) == ("refined", "fitted")
            assert after.error < before.error == after.candidates[before.winner].error
    assert changed


def test_a_rung_that_refinement_cannot_pay_for_stays(calibration: otcache.Calibration) -> None:
    refined = _calibrate(recipe=replace(RECIPE, refinement="gauss-newton", refine_runs=1e-3))
    assert refined.ladder == calibration.ladder
    assert refined.nfe["refinement"] == 0


def test_a_policy_file_gives_the_same_schedules(policy: otcache.Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "toy.otcache")
    loaded = otcache.load_policy(tmp_path / "toy.otcache")
    assert [loaded.schedule(b) for b in range(1, STEPS + 1)] == [
        policy.schedule(b) for b in range(1, STEPS + 1)
    ]


class Killed(BaseException):
    """As Ctrl-C or a kill."""


@pytest.mark.parametrize("stage", ["span_costs", "find_anchor", "climb_ladder"])
def test_an_interrupted_calibration_resumes_to_the_same_result(
    calibration: otcache.Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    with monkeypatch.context() as patch:

        def killed(*args: object, **kwargs: object) -> None:
            raise Killed

        patch.setattr(calibration_stages, stage, killed)
        with pytest.raises(Killed):
            _calibrate(directory=tmp_path)
    resumed = _calibrate(directory=tmp_path)
    assert resumed.ladder == calibration.ladder
    assert resumed.nfe == calibration.nfe
    shutil.rmtree(tmp_path)


def test_a_bad_budget_leaves_the_old_one_in_place(policy: otcache.Policy) -> None:
    loop = make_loop()
    handle = otcache.enable(loop, policy, budget=4)
    with pytest.raises(otcache.OtcacheError, match="budget must be"):
        handle.set_budget(0)
    loop(["a"], [0], STEPS)
    handle.remove()
    handle.remove()
    assert loop.denoiser.calls == 4


def test_enable_checks_the_model_at_once(policy: otcache.Policy) -> None:
    other = otcache.loop(lambda p, s, n: torch.zeros(len(s), 8), denoiser=torch.nn.Linear(8, 8))
    with pytest.raises(otcache.MismatchError, match="model class differs"):
        otcache.enable(other, policy)


def test_another_grid_is_mapped_by_noise_level_with_a_notice(policy: otcache.Policy) -> None:
    loop = make_loop(power=1.0)
    with (
        pytest.warns(OtcacheNotice, match="own grid"),
        otcache.accelerate(loop, policy, 5) as run,
    ):
        loop(["a"], [0], STEPS)
    assert run.report.planned == policy.schedule(5, grid=loop.grid).computed
    assert loop.denoiser.calls == 5


def test_another_grid_is_refused_when_strict(policy: otcache.Policy) -> None:
    loop = make_loop(power=1.0)
    with (
        pytest.raises(otcache.MismatchError, match="own grid"),
        otcache.accelerate(loop, policy, 5, strict=True),
    ):
        loop(["a"], [0], STEPS)


def test_a_plain_schedule_of_another_step_count_is_computed_in_full_with_a_notice() -> None:
    loop = make_loop()
    with (
        pytest.warns(OtcacheNotice, match="cannot follow a schedule of 20"),
        otcache.accelerate(loop, otcache.Schedule(20, (0, 5))),
    ):
        loop(["a"], [0], STEPS)
    assert loop.denoiser.calls == STEPS


def test_other_weights_do_not_resume(tmp_path: Path) -> None:
    otcache.calibrate(
        make_loop(), PROMPTS, STEPS, SEEDS, recipe=RECIPE, progress=False, directory=tmp_path
    )
    changed = make_loop()
    with torch.no_grad():
        changed.denoiser.inner.mul_(1.5)
    with pytest.raises(otcache.OtcacheError, match="other weights"):
        otcache.calibrate(
            changed, PROMPTS, STEPS, SEEDS, recipe=RECIPE, progress=False, directory=tmp_path
        )
    again = otcache.calibrate(
        changed,
        PROMPTS,
        STEPS,
        SEEDS,
        recipe=RECIPE,
        progress=False,
        directory=tmp_path,
        overwrite=True,
    )
    fresh = otcache.calibrate(changed, PROMPTS, STEPS, SEEDS, recipe=RECIPE, progress=False)
    np.testing.assert_array_equal(again.span_costs, fresh.span_costs)


def test_rounding_of_bfloat16_states_is_no_departure_from_euler() -> None:
    grid, rng = np.linspace(1, 0, 51), np.random.default_rng(0)
    outputs = rng.normal(size=(50, 400)).astype(np.float32)
    x = torch.tensor(rng.normal(size=400), dtype=torch.bfloat16)
    states = [x]
    for h, v in zip(np.diff(grid), outputs, strict=True):
        states.append((states[-1].float() + h * torch.tensor(v)).to(torch.bfloat16))
    kept = torch.stack(states).float().numpy()
    made = Trajectory(grid, kept, outputs, rounding=2.0**-9)
    assert euler_residual([made]) <= EULER_LIMIT
    found = identify([made])
    assert isinstance(found, Recurrence)
    assert found.grid is grid
    exact = Trajectory(grid, kept, outputs)
    assert euler_residual([exact]) > EULER_LIMIT
    lagged = Trajectory(grid, kept, np.roll(outputs, 1, axis=0), rounding=2.0**-9)
    assert euler_residual([lagged]) > EULER_LIMIT


def test_a_two_step_sampler_is_fitted_through_its_recurrence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    loop = make_loop(two_step=True)
    made = otcache.calibrate(loop, PROMPTS, STEPS, SEEDS, recipe=RECIPE)
    assert "fitted through the sampler's linear recurrence of order 1" in capsys.readouterr().err
    schedule = otcache.plan(made).schedule(4)
    assert schedule.forecaster == "fitted"
    full = loop(["held out"] * 16, list(range(100, 116)), STEPS)

    def error(schedule: otcache.Schedule) -> float:
        with otcache.accelerate(loop, schedule):
            ours = loop(["held out"] * 16, list(range(100, 116)), STEPS)
        return float((ours - full).detach().square().mean().sqrt())

    assert error(schedule) < 0.5 * error(otcache.Schedule(STEPS, schedule.computed))


def test_a_sampler_that_adds_noise_of_its_seed_is_fitted() -> None:
    loop, seeds = make_loop(noise=0.05), range(50, 66)
    made = otcache.calibrate(loop, PROMPTS, STEPS, SEEDS, recipe=RECIPE, progress=False)
    fitted = [r.schedule for r in made.ladder if r.schedule.forecaster == "fitted"]
    full, errors = loop(["a"] * 16, seeds, STEPS), []
    for schedule in (fitted[-1], fitted[-1].without_weights()):
        with otcache.accelerate(loop, schedule):
            fast = loop(["a"] * 16, seeds, STEPS)
        errors.append(float((fast - full).square().mean().sqrt()))
    assert errors[0] < 0.5 * errors[1]


def test_a_sampler_with_a_limit_reuses_and_says_why_once() -> None:
    loop = make_loop(limit=0.5)
    with pytest.warns(OtcacheNotice) as given:
        made = otcache.calibrate(loop, PROMPTS, STEPS, SEEDS, recipe=RECIPE, progress=False)
    reasons = [str(w.message) for w in given if "skipped steps reuse" in str(w.message)]
    assert len(reasons) == 1
    assert "no weights are fitted: step" in reasons[0]
    rules = {otcache.plan(made).schedule(budget).forecaster for budget in range(2, STEPS)}
    assert rules <= {"reuse", "linear"}


def test_enable_changes_budgets_and_leaves_nothing(policy: otcache.Policy) -> None:
    loop = make_loop()
    before = dict(loop.denoiser.__dict__)
    handle = otcache.enable(loop, policy, budget=4)
    loop(["a"], [0], STEPS)
    handle.set_budget(6)
    loop(["a"], [0], STEPS)
    handle.remove()
    assert loop.denoiser.calls == 10
    loop.denoiser.calls = before["calls"]
    assert loop.denoiser.__dict__ == before


def test_a_level_that_the_target_lacks_is_refused_with_the_reason(policy: otcache.Policy) -> None:
    message = "torch-blocks: Swirl has no nn.ModuleList of blocks"
    with pytest.raises(otcache.OtcacheError, match=message):
        otcache.accelerate(make_loop(), otcache.Schedule(STEPS, (0, 5)), executor="torch-blocks")
    with pytest.raises(otcache.OtcacheError, match=message):
        otcache.enable(make_loop(), policy, budget=4, executor="torch-blocks")


@pytest.mark.parametrize(
    ("prompts", "seeds", "message"),
    [([], [0], "prompts"), ("one", [0], "prompts"), (["a"], [], "seeds")],
)
def test_empty_lists_are_refused(prompts: Any, seeds: Any, message: str) -> None:
    with pytest.raises(otcache.OtcacheError, match=f"{message} must be a list with at least one"):
        otcache.calibrate(make_loop(), prompts, STEPS, seeds, progress=False)


def test_a_sampler_that_never_calls_the_denoiser_is_named() -> None:
    loop = otcache.loop(
        lambda prompts, seeds, n: torch.zeros(len(seeds), 8), denoiser=torch.nn.Identity()
    )
    with pytest.raises(otcache.OtcacheError, match="never called"):
        otcache.calibrate(loop, PROMPTS, STEPS, progress=False)


def test_a_loop_without_a_grid_is_calibrated_on_several_prompts() -> None:
    """Each prompt is recorded by itself, and its grid identified up to rounding."""
    loop = make_loop()
    loop.grid = None
    made = otcache.calibrate(loop, ["a", "b", "c"], STEPS, recipe=RECIPE, progress=False)
    assert [label.rpartition(" ")[2] for label in made.samples] == ["0", "1", "2"]
    assert "fitted" in {rung.schedule.forecaster for rung in made.ladder}
    np.testing.assert_allclose(np.diff(made.grid), np.diff(make_loop().grid), atol=1e-4)


def test_kept_work_is_known_again_by_what_samples_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def calibrate(value: float, **call: Any) -> None:
        samples = [{"image": torch.full((2, 2), value), "label": np.int64(n)} for n in range(2)]
        loop = make_loop()
        sample_fn = loop.sample_fn

        def sample(prompts: Any, seeds: Any, num_steps: int, style: Any = None) -> torch.Tensor:
            return sample_fn(prompts, seeds, num_steps)  # type: ignore[no-any-return]

        loop = otcache.loop(sample, denoiser=loop.denoiser, grid=loop.grid)
        options: Any = {"directory": tmp_path, "recipe": RECIPE, "progress": False}
        otcache.calibrate(loop, samples, STEPS, **options, **call)

    def killed(*args: object) -> None:
        raise Killed

    monkeypatch.setattr(recording, "record_samples", killed)
    style = np.arange(3.0)
    for _ in range(2):  # the same values in other objects
        with pytest.raises(Killed):
            calibrate(0.0, style=style.copy())
    with pytest.raises(Killed):  # other samples of the same pipeline
        calibrate(1.0, style=style)
    with pytest.raises(otcache.OtcacheError, match="holds calibrations of another pipeline"):
        calibrate(0.0, style=style + 1)


def test_samples_of_one_seed_give_a_notice() -> None:
    with pytest.warns(OtcacheNotice, match="noise of one seed"):
        _calibrate(seeds_of_one=True)


@pytest.mark.parametrize("seeds", [np.arange(2), torch.arange(2), range(2)])
def test_seeds_may_be_any_integers(seeds: Any, calibration: otcache.Calibration) -> None:
    made = otcache.calibrate(make_loop(), PROMPTS, STEPS, seeds, recipe=RECIPE, progress=False)
    assert made.samples == calibration.samples


@pytest.mark.parametrize("seeds", [3, [0.5], []])
def test_other_seeds_are_refused(seeds: Any) -> None:
    with pytest.raises(otcache.OtcacheError, match=r"seeds(\[0\])? must be an? (list|integer)"):
        otcache.calibrate(make_loop(), PROMPTS, STEPS, seeds, progress=False)
