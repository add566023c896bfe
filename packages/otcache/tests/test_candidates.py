"""No rung is worse than reuse or linear forecasts, on its own steps or uniform ones, or no calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otcache.calibration.contest import (
    SCREENED_ONLY,
    Contender,
    baselines,
    candidate,
    screening_samples,
    settle_ladder,
)
from otcache.calibration.recipe import BASELINES, UNIFORM, Recipe
from otcache.calibration.record import NfeCount
from otcache.progress import Stages
from otcache_core import Schedule
from otcache_core.calibration import Rung
from otcache_core.contracts import Evaluation

#: Errors of any schedule on any sample: smooth in nothing, the same whenever asked.
Errors = Any


class Fake:
    """Evaluates from a table; keeps what it was given, and spends what an evaluator may spend."""

    def __init__(self, errors: Errors, samples: int, spent: NfeCount) -> None:
        self.errors, self.samples, self.spent = errors, samples, spent
        self.asked: list[tuple[list[Schedule], list[int]]] = []

    def evaluate(self, schedules: Sequence[Schedule], **how: Any) -> Evaluation:
        assert not how.get("fit")
        chosen = list(range(self.samples) if how["samples"] is None else how["samples"])
        assert len(set(schedules)) == len(schedules)
        self.asked.append((list(schedules), chosen))
        found = np.array([[self.errors(s, i) for i in chosen] for s in schedules])
        nfe = sum(_live(s) for s in schedules) * len(chosen)
        self.spent.spend(nfe)
        return Evaluation(tuple(schedules), found, nfe, np.zeros((0, 0, 0)))


def _live(schedule: Schedule) -> int:
    """Return computed steps behind the first skipped one."""
    return len([k for m, k in enumerate(schedule.computed) if k != m])


def _bench(errors: Errors, n: int, samples: int, runs: float = 2.5) -> tuple[Any, Fake]:
    spent = NfeCount()
    fake = Fake(errors, samples, spent)

    def allowance(stage: str, full_runs: float) -> int:
        spent.stage = stage
        spent.spend(0)
        return int(full_runs * n * samples)

    bench = SimpleNamespace(
        recipe=Recipe(candidate_runs=runs),
        evaluator=fake,
        trajectories=[None] * samples,
        stages=Stages(False),
        spent=spent,
        allowance=allowance,
        fidelity="rmse",
        num_steps=n,
        prediction="",
        grid=(),
    )
    return bench, fake


def _contender(errors: Errors, schedule: Schedule, samples: int) -> Contender:
    logs = np.log([errors(schedule, i) for i in range(samples)])
    return Contender(schedule, "quantile", logs, {"quantile": candidate(logs)})


def _fitted(n: int, computed: Sequence[int]) -> Schedule:
    return Schedule(n, tuple(computed)).with_weights([(0.1,)] * len(computed))


def _settled(errors: Errors, schedule: Schedule, samples: int) -> tuple[Rung, Fake]:
    bench, fake = _bench(errors, schedule.num_steps, samples)
    (rung,) = settle_ladder(bench, [_contender(errors, schedule, samples)])
    return rung, fake


def _short(name: str) -> str:
    return name.replace(", ", "_").replace(" ", "_")


def _by_rule(**errors: float) -> Errors:
    """One error a baseline of ``PLANNED``, the same on all samples."""
    kinds = {s: _short(n) for n, s in baselines(PLANNED, ()).items()}
    return lambda schedule, sample: errors[kinds.get(schedule, "fitted")]


PLANNED = _fitted(30, (0, 1, 3, 6, 12, 20))
ABOVE = {_short(name): 10.0 for name in BASELINES}


@pytest.mark.parametrize("name", BASELINES)
def test_a_fitted_rung_above_any_baseline_is_not_kept(name: str) -> None:
    rung, _ = _settled(_by_rule(**ABOVE | {_short(name): 0.9}, fitted=1.0), PLANNED, 8)
    assert (rung.winner, rung.error) == (name, pytest.approx(0.9))
    assert rung.schedule == baselines(PLANNED, ())[name]
    assert rung.candidates[name].samples == 8


def test_what_is_at_least_twice_the_best_on_a_quarter_is_not_run_further() -> None:
    errors = _by_rule(**ABOVE | {"uniform_reuse": 1.9, "planned_reuse": 2.1}, fitted=1.0)
    rung, fake = _settled(errors, PLANNED, 8)
    uniform = baselines(PLANNED, ())[UNIFORM]
    assert [(len(s), i) for s, i in fake.asked] == [(5, [0, 5]), (1, [1, 2, 3, 4, 6, 7])]
    assert fake.asked[1][0] == [uniform]
    assert rung.winner == "quantile"
    assert [rung.candidates[name].samples for name in BASELINES] == [8, 2, 2, 2, 2]


@pytest.mark.parametrize(("samples", "few"), [(1, 1), (2, 2), (3, 2), (4, 2), (8, 2), (16, 4)])
def test_a_quarter_of_the_samples_two_at_least(samples: int, few: int) -> None:
    chosen = screening_samples(samples)
    assert len(set(chosen)) == len(chosen) == few
    assert set(chosen) <= set(range(samples))


def test_samples_are_compared_pair_by_pair() -> None:
    """A screened baseline counts by its ratio on the samples it ran on, however hard those were."""
    hard = {0: 100.0, 4: 100.0}
    rates = {"fitted": 1.0, "uniform_linear": 3.0}
    by_rule = _by_rule(**ABOVE | rates)
    rung, _ = _settled(lambda s, i: by_rule(s, i) * hard.get(i, 1.0), PLANNED, 8)
    mean = 100.0 ** (2 / 8)
    assert rung.error == pytest.approx(mean)
    assert rung.candidates["uniform, linear"].error == pytest.approx(3 * mean)


@pytest.mark.parametrize(("fitted", "winner"), [(0.49, "quantile"), (0.51, UNIFORM)])
def test_one_sample_keeps_nothing_fitted_but_below_half(fitted: float, winner: str) -> None:
    rung, _ = _settled(_by_rule(**ABOVE | {"uniform_reuse": 1.0}, fitted=fitted), PLANNED, 1)
    assert rung.winner == winner
    assert [rung.candidates[name].samples for name in BASELINES] == [1] * 5


@pytest.mark.parametrize(("fitted", "winner"), [(0.24, "quantile"), (0.26, UNIFORM)])
def test_one_sample_without_all_baselines_asks_for_a_quarter(fitted: float, winner: str) -> None:
    errors = _by_rule(**ABOVE | {"uniform_reuse": 1.0}, fitted=fitted)
    bench, _ = _bench(errors, 30, 1, runs=11 / 30)  # half of it pays for uniform reuse alone
    (rung,) = settle_ladder(bench, [_contender(errors, PLANNED, 1)])
    assert rung.winner == winner
    assert len(set(BASELINES) - set(rung.candidates)) > 0


@pytest.mark.parametrize(("first", "winner"), [(1.05, "quantile"), (1.6, UNIFORM)])
def test_uniform_reuse_gives_way_to_what_is_clearly_below_it(first: float, winner: str) -> None:
    """Lower by a tenth on all samples but the first: on a difference like that none is built."""
    uniform = baselines(PLANNED, ())[UNIFORM]

    def error(schedule: Schedule, sample: int) -> float:
        rates = {PLANNED: first if sample == 0 else 0.9, uniform: 1.0}
        return rates.get(schedule, 10.0)

    rung, _ = _settled(error, PLANNED, 8)
    assert rung.winner == winner


def test_equal_schedules_are_run_once_and_known_ones_never() -> None:
    """Where nothing could be fitted the planned steps are already reused, here uniformly."""
    uniform = Schedule(30, (0, 5, 10, 15, 20, 25))
    rung, fake = _settled(lambda s, i: 1.0 if s.forecaster == "reuse" else 2.5, uniform, 4)
    assert [[s.forecaster for s in asked] for asked, _ in fake.asked] == [
        ["variable-order", "linear"]
    ]
    assert rung.winner == "quantile"
    assert rung.candidates[UNIFORM] == rung.candidates["planned, reuse"]
    assert rung.candidates[UNIFORM].samples == 4


def test_a_baseline_that_breaks_the_run_is_in_the_table_and_never_kept() -> None:
    rung, _ = _settled(_by_rule(**ABOVE | {"uniform_linear": math.nan}, fitted=1.0), PLANNED, 4)
    assert rung.winner == "quantile"
    assert rung.candidates["uniform, linear"].error is None


@pytest.mark.parametrize("n", [12, 30, 50])
@pytest.mark.parametrize("samples", [1, 2, 3, 4, 8, 16])
def test_small_rungs_are_covered_however_few_the_samples(n: int, samples: int) -> None:
    """The worst case: nothing is screened out. All five up to N/8, uniform reuse up to N/4."""
    bench, _ = _bench(lambda s, i: 1.0, n, samples)
    ladder = Recipe().resolve(n).ladder or ()
    rungs = settle_ladder(bench, [_random(n, b, samples) for b in ladder])
    for rung in rungs:
        measured = set(BASELINES) & set(rung.candidates)
        assert measured == set(BASELINES) or rung.schedule.budget > n / 8 + 1
        assert UNIFORM in measured or rung.schedule.budget > n / 4 + 1


def _random(n: int, budget: int, samples: int, seed: int = 0) -> Contender:
    rng = np.random.default_rng([n, budget, seed])
    steps = sorted(rng.choice(np.arange(1, n), budget - 1, replace=False).tolist())
    return _contender(lambda s, i: 1.0, _fitted(n, (0, *steps)), samples)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(4, 60),
    samples=st.integers(1, 20),
    runs=st.floats(0.01, 4.0),
    spread=st.floats(0.0, 2.0),
    seed=st.integers(0, 99),
)
def test_the_cost_is_inside_the_allowance_and_the_best_is_kept(
    n: int, samples: int, runs: float, spread: float, seed: int
) -> None:
    """The cost is inside the allowance; what is kept is best of all that ran on all samples."""
    rng = np.random.default_rng(seed)
    drawn: dict[tuple[Schedule, int], float] = {}

    def error(schedule: Schedule, sample: int) -> float:
        return drawn.setdefault((schedule, sample), float(np.exp(spread * rng.normal())))

    ladder = sorted({int(b) for b in rng.integers(1, n + 1, 6)})
    contenders = []
    for budget in ladder:
        steps = sorted(rng.choice(np.arange(1, n), budget - 1, replace=False).tolist())
        contenders.append(_contender(error, _fitted(n, (0, *steps)), samples))
    bench, fake = _bench(error, n, samples, runs)
    rungs = settle_ladder(bench, contenders)
    assert bench.spent.nfe["candidates"] <= runs * n * samples
    assert sum(_live(s) * len(i) for asked, i in fake.asked for s in asked) == sum(
        bench.spent.nfe.values()
    )
    for contender, rung in zip(contenders, rungs, strict=True):
        assert rung.error == rung.candidates[rung.winner].error
        for name in set(BASELINES) & set(rung.candidates):
            entry, baseline = rung.candidates[name], baselines(contender.schedule, ())[name]
            assert entry.error is not None
            if entry.samples == samples:
                truth = np.mean([math.log(drawn[baseline, i]) for i in range(samples)])
                assert entry.error == pytest.approx(math.exp(truth))
            if rung.schedule.forecaster == "fitted":
                doubt = 2 if samples == 1 else 1 if entry.samples == samples else SCREENED_ONLY
                assert rung.error * doubt <= entry.error * (1 + 1e-9)
            elif entry.samples == samples and rung.winner != UNIFORM:
                assert rung.error <= entry.error * (1 + 1e-9)
