"""Recipes by name, quick, standard and thorough, and what a calibration by each costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from otcache.calibration.recipe import QUANTILE, UNCALIBRATED, UNIFORM, Recipe
from otcache.progress import duration
from otcache_core import OtcacheError
from otcache_core.errors import expected

#: What :func:`otcache.calibrate` does unless something else is said.
STANDARD = "standard"
#: Full runs of a sample that the displacement cost model takes, about.
COST_RUNS = 4.0

#: Samples of a standard calibration, at least: weights of fewer do not carry over to other samples, and
#: further seeds of a prompt do nearly as well as further prompts (docs/few-prompts.md).
ENOUGH = 8
#: Quick runs two samples, each with weights fitted on the other one, at the budgets that are asked for: the
#: steps without calibration and those of the second-order dynamic program, whose costs are read off the
#: recorded outputs. The lower of these and of what needs no calibration is kept, also where that is not
#: clear: weights of both samples are better than those of one that each ran with. Under guidance that holds
#: below a quarter of the steps alone (:data:`otcache.calibration.contest.GUIDED`). No gap is measured.
QUICK = Recipe(
    cost_model="local",
    proposals=("prior", "second-order"),
    anchor_search=None,
    baselines=(UNIFORM, UNCALIBRATED, "uniform, linear"),
    fallback=None,
    candidate_runs=1000.0,
    gap_runs=0.0,
    samples=2,
)
EFFORTS = {
    "quick": QUICK,
    STANDARD: Recipe(least_samples=ENOUGH),
    "thorough": Recipe(least_samples=ENOUGH, refinement="gauss-newton"),
}


def recipe_of(
    effort: str | None, recipe: Recipe | None = None, budgets: Iterable[int] | None = None
) -> Recipe:
    """Return the recipe of an effort, or the one given.

    Args:
        effort: a name; None for the standard one.
        recipe: instead of a name.
        budgets: the ladder of the recipe; None leaves it as it is.

    Raises:
        OtcacheError: if both are given, one is of the wrong kind, the name is unknown, or a budget is not an
            integer of 1 or more.
    """
    if recipe is not None and effort is not None:
        raise OtcacheError(
            f"effort {effort!r} is a recipe by itself, and recipe= another: give one of them."
        )
    if recipe is not None and not isinstance(recipe, Recipe):
        raise OtcacheError(expected("recipe", type(recipe).__name__, "a Recipe"))
    if recipe is not None:
        found = recipe
    elif effort is None or (isinstance(effort, str) and effort in EFFORTS):
        found = EFFORTS[effort or STANDARD]
    else:
        raise OtcacheError(expected("effort", effort, f"one of {', '.join(EFFORTS)}"))
    if budgets is None:
        return found
    if isinstance(budgets, str) or not isinstance(budgets, Iterable):
        raise OtcacheError(expected("budgets", budgets, "a row of integers"))
    ladder = tuple(budgets)
    if not ladder:
        raise OtcacheError(expected("budgets", ladder, "at least one integer"))
    return replace(found, ladder=ladder)


def full_runs(recipe: Recipe, num_steps: int, samples: int) -> float:
    """Return what a calibration costs, in full runs of one sample, at most.

    What only a plugin knows is not in it: another cost model, solver of a stage or refinement may take more.

    Args:
        recipe: resolved for N steps.
        num_steps: N.
        samples: that are measured.
    """
    ladder = recipe.ladder or ()
    fitted = len(recipe.proposals) + (recipe.anchor_search is not None)
    baselines = len(recipe.baselines) * sum(b - 1 for b in ladder) / num_steps
    runs = 1.0 + fitted * sum(b - 1 for b in ladder) / num_steps
    runs += min(recipe.candidate_runs, baselines)
    if recipe.anchor_search is not None:
        trials = recipe.anchor_trials + recipe.climb_trials
        runs += trials * ((recipe.anchor_budget or 1) - 1) / num_steps
        runs += len(recipe.proposals) * ((recipe.reference_budget or 1) - 1) / num_steps
        runs += recipe.rounding_runs if recipe.interpolation == QUANTILE else 0.0
    runs += recipe.gap_runs + (0.0 if recipe.refinement is None else recipe.refine_runs)
    costs = COST_RUNS * min(recipe.cost_samples, samples)
    return runs * samples + (costs if recipe.cost_model == "displacement" else 0.0)


def cost_text(recipe: Recipe, num_steps: int, samples: int, seconds: float | None = None) -> str:
    """Say what a calibration costs: in full runs, and in time once a run took so many seconds a sample."""
    runs = full_runs(recipe, num_steps, samples)
    text = f"calibrating takes at most {runs:.0f} full runs of a sample"
    if seconds is None:
        return f"{text}."
    return f"{text}: {duration(runs * seconds)} at {seconds:.1f} s a run."
