"""How a calibration is made: every choice with its default, and what fills its stages.

:class:`Recipe` holds the choices. A stage is filled by the name of a plugin, or by an object of its contract;
the functions below it make these, and check that a stage can work with them.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import numpy as np

from otcache_core import Need, OtcacheError, Schedule
from otcache_core.contracts import CostModel, ScheduleSolver
from otcache_core.contracts.planning import forecaster_of
from otcache_core.errors import expected
from otcache_core.numbers import integer, reals
from otcache_core.plugins import Registry
from otcache_core.storage.recordings import RecordingStorage

#: The interpolation that a policy itself does.
QUANTILE = "quantile"
#: The forecaster whose weights a calibration fits.
FITTED = "fitted"
#: The baseline that is measured first and at every rung: a rung without it is not kept.
UNIFORM = "uniform, reuse"
#: What a budget alone gives, :func:`~otcache_core.uncalibrated.default_schedule`.
UNCALIBRATED = "default"
#: Names of the five baselines, those first that threaten a fitted rung most.
BASELINES = (UNIFORM, UNCALIBRATED, "planned, reuse", "planned, linear", "uniform, linear")
#: Defaults of a recipe: these names mean otcache's own plugins, also where another package offers one.
OUR_DEFAULTS = ("displacement", "lexicographic", "second-order", QUANTILE, "anchor-search")
#: What each stage has of what solvers need; proposals have displacements where the cost model gives them.
GIVEN = {
    "proposals": frozenset({Need.COSTS, Need.GRAM, Need.GRID, Need.GAINS, Need.DISPLACEMENTS}),
    "interpolation": frozenset({Need.ANCHOR, Need.REFERENCE, Need.GRAM, Need.GRID}),
    "anchor_search": frozenset(Need) - {Need.ANCHOR},
    "refinement": frozenset({Need.REFERENCE, Need.EVALUATOR}),
}
#: Runs of at most so many steps are those of distilled models.
FEW_STEPS = 8
#: The least value of each whole number of a recipe.
_LEAST = {
    "least_samples": 1,
    "cost_samples": 1,
    "anchor_trials": 1,
    "batch_size": 1,
    "climb_trials": 0,
    "seed": 0,
}


@dataclass(frozen=True)
class Recipe:
    """How a pipeline is calibrated. None means: chosen from N and from what the pipeline offers.

    Six fields choose what does the work of a stage: each is the name of a plugin, which gets the numbers
    below that it takes as options, or an object, which is used as it is (docs/method.md, "Choosing").
    Without an anchor search only proposals are fitted, at the budgets of the ladder.

    Args:
        anchor_budget: B_a of the searched schedule; about N/8.
        reference_budget: B_r of the graph method's schedule; about N/3.
        ladder: budgets at which forecast weights are fitted; about every factor 1.25 from 2 to N - 1.
            With N of at most 8 the budget 1 is always among them, as the measure of the others.
        cost_samples: samples on which the growth of deviations is measured; each costs about four
            full runs.
        anchor_trials: schedules tried in the anchor search.
        climb_trials: single-step moves tried from the best of them.
        objective: error the anchor search minimises; ``lpips`` where the pipeline decodes images.
        fidelity: error by which the reference and the rungs are chosen; ``rmse`` of decoded images
            where there are any.
        rounding_runs: full runs per sample that may be spent, from the smallest budget up, on rounding
            the interpolated steps of a rung in several ways.
        gap_runs: full runs per sample that may be spent on budgets between rungs: first on those at which
            interpolation cannot be trusted, then on the others from the smallest up.
        candidate_runs: full runs per sample that may be spent, from the smallest budget up, on reuse and
            linear forecasts on a rung's own steps and on uniform ones, and on what needs no calibration:
            a fitted rung must beat them.
        batch_size: samples in one pipeline call.
        seed: of the search.
        refine_runs: full runs per sample that the refinement may take in all; rungs are refined from
            the smallest budget on, and those whose cost no longer fits keep their fitted weights.
        keep: where recorded runs are kept, in memory, on the disk or as a sketch.
        cost_model: measures what skipping a span costs.
        proposals: solvers whose schedules are candidates for the reference and for every rung, and where
            the anchor search begins.
        interpolation: gives the steps of budgets between two schedules: ``quantile``, ``exact-lp``,
            ``sinkhorn``, ``unbalanced``, or another solver that needs no more than two schedules, the grid
            and the Gram matrix.
        anchor_search: finds the anchor; None for neither an anchor nor a reference.
        refinement: improves every rung as a last stage: ``gauss-newton`` its weights on the error at the
            end of the run, ``refine`` its steps; None for no such stage.
        forecaster: of the rungs: ``fitted``, whose weights are fitted, or the name of one that has none,
            such as ``linear``; nothing is fitted then.
        baselines: names of those that a fitted rung must beat, among :data:`BASELINES`; the first always.
        fallback: the baseline that gives way only to what is clearly below it, one of ``baselines``; None:
            the lower of a fitted schedule and of what needs no calibration is kept, and another baseline
            only where it is clearly below that.
        samples: that are measured at most, the first ones; None for all.
        least_samples: that are measured at least: where there are fewer prompts, and no seeds are given, each
            is measured with several seeds.

    Raises:
        OtcacheError: if a number is of the wrong kind or out of range, or a choice is neither a name nor of
            its contract.
    """

    anchor_budget: int | None = None
    reference_budget: int | None = None
    ladder: tuple[int, ...] | None = None
    cost_samples: int = 4
    anchor_trials: int = 24
    climb_trials: int = 16
    objective: str | None = None
    fidelity: str | None = None
    rounding_runs: float = 2.0
    candidate_runs: float = 2.5
    gap_runs: float = 4.0
    batch_size: int = 8
    seed: int = 0
    refine_runs: float = 40.0
    keep: RecordingStorage = field(default_factory=RecordingStorage)
    cost_model: str | CostModel = "displacement"
    proposals: Sequence[str | ScheduleSolver] = ("lexicographic", "second-order")
    interpolation: str | ScheduleSolver = QUANTILE
    anchor_search: str | ScheduleSolver | None = "anchor-search"
    refinement: str | ScheduleSolver | None = None
    forecaster: str = FITTED
    baselines: Sequence[str] = BASELINES
    fallback: str | None = UNIFORM
    samples: int | None = None
    least_samples: int = 1

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            self._set(name, integer(f"Recipe.{name}", getattr(self, name), least))
        for name in ("anchor_budget", "reference_budget", "samples"):
            if getattr(self, name) is not None:
                self._set(name, integer(f"Recipe.{name}", getattr(self, name), 1))
        if self.ladder is not None:
            budgets = reals("Recipe.ladder", self.ladder)
            whole = (int(b) if b.is_integer() else b for b in budgets)
            self._set("ladder", tuple(integer("Recipe.ladder", b, 1) for b in whole))
        for name in ("rounding_runs", "gap_runs", "candidate_runs", "refine_runs"):
            value, may_be_0 = getattr(self, name), name in ("rounding_runs", "gap_runs")
            number = float(value) if isinstance(value, Real) else -1.0
            if not (number >= 0 if may_be_0 else number > 0):
                wanted = "at least 0" if may_be_0 else "above 0"
                raise OtcacheError(expected(f"Recipe.{name}", value, wanted))
        if not isinstance(self.keep, RecordingStorage):
            raise OtcacheError(expected("Recipe.keep", self.keep, "an otcache.RecordingStorage"))
        _check_kinds(self)
        self._set("proposals", tuple(self.proposals))
        known = not isinstance(self.baselines, str) and set(self.baselines) <= set(BASELINES)
        if not known or UNIFORM not in self.baselines:
            wanted = f"{UNIFORM!r} and any of {', '.join(map(repr, BASELINES[1:]))}"
            raise OtcacheError(expected("Recipe.baselines", self.baselines, wanted))
        self._set("baselines", tuple(name for name in BASELINES if name in self.baselines))
        if self.fallback not in (None, *self.baselines):
            wanted = f"None or one of {', '.join(map(repr, self.baselines))}"
            raise OtcacheError(expected("Recipe.fallback", self.fallback, wanted))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def resolve(self, num_steps: int, requested: int | None = None) -> Recipe:
        """Return the recipe with its budgets filled in for N steps.

        Args:
            num_steps: N, the steps that a run makes.
            requested: ``num_inference_steps`` of the run, if that is not N.

        Raises:
            OtcacheError: if N is too small to skip anything, or budgets are not 1 <= B_a < B_r <= N.
        """
        if num_steps < 4:
            few = "nothing worthwhile can be skipped"
            if requested in (None, num_steps):
                raise OtcacheError(
                    expected("num_inference_steps", num_steps, "at least 4", f"{few}.")
                )
            more = f"{few}: raise num_inference_steps, {requested}, or strength."
            raise OtcacheError(expected("steps that a run makes", num_steps, "at least 4", more))
        if self.anchor_search is None:
            return self._of_proposals(num_steps)
        reference = self.reference_budget or max(3, round(num_steps / 3))
        anchor = self.anchor_budget or max(2, min(reference - 1, round(num_steps / 8)))
        if not 1 <= anchor < reference <= num_steps:
            wanted = f"1 <= anchor < reference <= {num_steps}"
            raise OtcacheError(
                expected("anchor and reference budgets", (anchor, reference), wanted)
            )
        ladder = self.ladder or _ladder(anchor, reference, num_steps)
        if max(ladder) > num_steps:
            wanted = f"at most {num_steps}, the steps of a run"
            raise OtcacheError(expected("Recipe.ladder", ladder, wanted))
        rungs = tuple(sorted({anchor, reference, *ladder, *_scale(num_steps)}))
        return replace(self, anchor_budget=anchor, reference_budget=reference, ladder=rungs)

    def _of_proposals(self, num_steps: int) -> Recipe:
        """Fill in the ladder alone."""
        budgets = self.ladder or (max(2, round(num_steps / 3)),)
        ladder = tuple(sorted({*budgets, *_scale(num_steps)}))
        if ladder[-1] >= num_steps:
            raise OtcacheError(
                expected("Recipe.ladder", ladder, f"below {num_steps}, the steps of a run")
            )
        return replace(self, ladder=ladder)


def _scale(num_steps: int) -> tuple[int, ...]:
    """Return the budget whose error is the measure of the others in a run of few steps."""
    return (1,) if num_steps <= FEW_STEPS else ()


def _ladder(anchor: int, reference: int, num_steps: int) -> tuple[int, ...]:
    """Return budgets in geometric progression around the anchor, from 2 to N - 1.

    Those at either end cost little: few steps are computed, or few follow the first skipped one. What
    is best there is not what is best in the middle.
    """
    budgets, b = {anchor, reference, num_steps - 1}, float(anchor)
    while b < num_steps - 1:
        budgets.add(round(b))
        b *= 1.25
    b = anchor / 1.25
    while round(b) >= 2:
        budgets.add(round(b))
        b /= 1.25
    return tuple(sorted(budgets))


def name_of(choice: object) -> str:
    """Return the name under which a choice is listed: its own, or that of its class."""
    return choice if isinstance(choice, str) else type(choice).__name__


def solver_of(registry: Registry, choice: str | ScheduleSolver, **offered: Any) -> ScheduleSolver:
    """Return the solver that was chosen.

    Args:
        registry: where names come from.
        choice: a name, or a solver, which is used as it is.
        offered: options for a solver by name: those that it takes and its plugin does not set.
    """
    if not isinstance(choice, str):
        return choice
    name, taken = _found(registry, "solvers", choice, offered)
    return registry.create("solvers", name, **taken)


def cost_model_of(registry: Registry, choice: str | CostModel, **offered: Any) -> CostModel:
    """Return the cost model that was chosen; arguments as :func:`solver_of`."""
    if not isinstance(choice, str):
        return choice
    name, taken = _found(registry, "cost_models", choice, offered)
    return registry.create("cost_models", name, **taken)


def _found(
    registry: Registry, kind: str, choice: str, offered: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    name = (registry.own if choice in OUR_DEFAULTS else registry.resolve)(kind, choice)
    known = inspect.signature(registry.get(kind, name)).parameters.keys()
    preset = next(o for o in registry.known(kind) if name == o.qualified_name).info.options
    return name, {key: value for key, value in offered.items() if key in known - preset.keys()}


def proposers(recipe: Recipe, registry: Registry) -> dict[str, ScheduleSolver]:
    """Return the solvers of ``Recipe.proposals`` by name; a name that comes again is numbered."""
    solvers: dict[str, ScheduleSolver] = {}
    for choice in recipe.proposals:
        name = name_of(choice)
        count = sum(other.partition(" #")[0] == name for other in solvers)
        solvers[f"{name} #{count + 1}" if count else name] = solver_of(registry, choice)
    return solvers


def gives_vectors(model: CostModel) -> bool:
    """Return whether a cost model measures displacements, not only sizes."""
    return type(model).displacements is not CostModel.displacements


def check_choices(recipe: Recipe, registry: Registry) -> None:
    """Check that each stage can work with what was chosen for it; runs nothing.

    Raises:
        OtcacheError: if a name is not in the registry, a solver needs what its stage does not have, or a
            forecaster needs weights that are not fitted.
    """
    _check_forecaster(recipe, registry)
    model = cost_model_of(registry, recipe.cost_model)
    sizes_only = "" if gives_vectors(model) else name_of(model)
    for name, solver in proposers(recipe, registry).items():
        _check_needs("proposals", name, solver, registry, sizes_only)
    for stage in ("interpolation", "anchor_search", "refinement"):
        choice = getattr(recipe, stage)
        if choice is not None:
            _check_needs(stage, name_of(choice), solver_of(registry, choice), registry)
    if recipe.refinement is None or recipe.forecaster == FITTED:
        return
    if solver_of(registry, recipe.refinement, fit=False).abilities.forecasts:
        raise OtcacheError(
            f"refinement {name_of(recipe.refinement)!r} moves fitted weights, and forecaster "
            f"{recipe.forecaster!r} has none: choose refinement 'refine', or forecaster 'fitted'."
        )


def _check_needs(
    stage: str, name: str, solver: ScheduleSolver, registry: Registry, sizes_only: str = ""
) -> None:
    available = GIVEN[stage] - ({Need.DISPLACEMENTS} if sizes_only else frozenset())
    needs = solver.abilities.needs
    missing = " and ".join(need.value for need in Need if need in needs - available)
    if not missing:
        return
    if not needs - GIVEN[stage]:
        raise OtcacheError(
            f"solver {name!r} needs displacements, and {sizes_only} gives the costs of spans as numbers, not "
            "vectors: set Recipe.cost_model to 'displacement'."
        )
    raise OtcacheError(
        f"solver {name!r} as Recipe.{stage} needs {missing}, which is not given there: "
        f"pick one of {', '.join(able_with(registry, available))}."
    )


def able_with(registry: Registry, given: frozenset[Need]) -> list[str]:
    """Return the names of solvers that need no more; of otcache's own and those registered by hand."""
    names = []
    for offer in registry.candidates("solvers", foreign=False):
        with suppress(OtcacheError):
            if registry.create("solvers", offer.qualified_name).abilities.needs <= given:
                names.append(offer.info.name)
    return names


def _check_forecaster(recipe: Recipe, registry: Registry) -> None:
    rule = forecaster_of(registry, recipe.forecaster)
    if recipe.forecaster == FITTED:
        return
    try:
        for span in Schedule(9, (0, 1, 4), recipe.forecaster).spans():
            rule.coefficients(span, np.linspace(1.0, 0.0, 10))
    except OtcacheError as error:
        wanted = f"'fitted', or one that needs no weights ({error})"
        raise OtcacheError(expected("Recipe.forecaster", recipe.forecaster, wanted)) from error


def _check_kinds(recipe: Recipe) -> None:
    """Check that each choice is a name or an object of its contract."""
    if not isinstance(recipe.cost_model, (str, CostModel)):
        raise _wrong_kind("cost_model", recipe.cost_model, "a cost model, or a CostModel")
    proposals = recipe.proposals
    if isinstance(proposals, str) or not isinstance(proposals, Sequence):
        raise OtcacheError(expected("Recipe.proposals", proposals, "a sequence of solvers"))
    if not proposals:
        raise OtcacheError(expected("Recipe.proposals", proposals, "at least one solver"))
    solvers = {"interpolation": recipe.interpolation}
    solvers |= {f"proposals[{i}]": proposal for i, proposal in enumerate(proposals)}
    optional = {name: getattr(recipe, name) for name in ("anchor_search", "refinement")}
    solvers |= {name: choice for name, choice in optional.items() if choice is not None}
    for name, choice in solvers.items():
        if not isinstance(choice, (str, ScheduleSolver)):
            raise _wrong_kind(name, choice, "a solver, or a ScheduleSolver")
    if not isinstance(recipe.forecaster, str):
        advice = "a schedule holds its name: offer it from a plugin (docs/plugins.md)."
        raise _wrong_kind("forecaster", recipe.forecaster, "a forecaster", advice)


def _wrong_kind(name: str, choice: object, what: str, advice: str = "") -> OtcacheError:
    kind = type(choice).__name__
    return OtcacheError(expected(f"Recipe.{name}", kind, f"the name of {what}", advice))
