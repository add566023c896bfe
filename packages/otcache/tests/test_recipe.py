"""The settings of a calibration."""

from __future__ import annotations

import inspect
from typing import Any
from unittest.mock import MagicMock

import pytest

from otcache.calibration import stages
from otcache.calibration.recipe import Recipe
from otcache_core import OtcacheError, Schedule, ScheduleProblem
from otcache_core.plugins import Registry


def test_budgets_follow_from_the_step_count() -> None:
    recipe = Recipe().resolve(30)
    assert (recipe.anchor_budget, recipe.reference_budget) == (4, 10)
    assert recipe.ladder == (2, 3, 4, 5, 6, 8, 10, 12, 15, 19, 24, 29)
    assert Recipe(ladder=(15,)).resolve(30).ladder == (4, 10, 15)


@pytest.mark.parametrize("num_steps", range(4, 101))
def test_every_step_count_gets_a_ladder_inside_it(num_steps: int) -> None:
    recipe = Recipe().resolve(num_steps)
    assert recipe.ladder is not None
    assert recipe.anchor_budget in recipe.ladder
    assert recipe.ladder[0] == (1 if num_steps <= 8 else 2)
    assert recipe.ladder[-1] == num_steps - 1
    assert recipe.reference_budget in recipe.ladder


def test_too_few_steps_are_refused_with_the_reason() -> None:
    with pytest.raises(OtcacheError, match="nothing worthwhile can be skipped"):
        Recipe().resolve(3)


def test_an_anchor_above_the_reference_is_refused() -> None:
    with pytest.raises(OtcacheError, match="1 <= anchor < reference <= 30"):
        Recipe(anchor_budget=12, reference_budget=8).resolve(30)


@pytest.mark.parametrize("name", ["refine_runs", "candidate_runs"])
def test_a_stage_needs_an_allowance(name: str) -> None:
    with pytest.raises(OtcacheError, match=f"Recipe.{name} must be above 0, got 0.0"):
        Recipe(**{name: 0.0}).resolve(30)


def test_the_anchor_search_takes_every_option_that_its_stage_offers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An option that a solver does not take is not passed, so a removed one would be lost in silence."""
    offers: list[tuple[str, set[str]]] = []

    def offer(registry: Any, choice: str, **options: Any) -> Any:
        offers.append((choice, set(options)))
        return MagicMock()

    monkeypatch.setattr(stages, "solver_of", offer)
    bench: Any = MagicMock(recipe=Recipe().resolve(30))
    stages.find_anchor(bench, Schedule(30, (0, 9)), (), ScheduleProblem(30, 4))
    ((choice, options),) = offers
    assert options <= inspect.signature(Registry().get("solvers", choice)).parameters.keys()
    assert "progress" in options
