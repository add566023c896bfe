"""What fills the stages of a calibration: the name of a plugin, or an object of its contract."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from otcache_core import Need, OtcacheError, Schedule
from otcache_core.contracts import CostModel, ScheduleSolver
from otcache_core.errors import expected
from otcache_core.forecasters.named import forecaster_of
from otcache_core.plugins import Registry

if TYPE_CHECKING:
    from otcache.calibration.recipe import Recipe

#: The interpolation that a policy itself does.
QUANTILE = "quantile"
#: The forecaster whose weights a calibration fits.
FITTED = "fitted"
#: What a recipe asks for by default: parts of ours, whoever else offers one of the name.
OUR_DEFAULTS = ("displacement", "lexicographic", "second-order", QUANTILE, "anchor-search")
#: What each stage has of what solvers need; proposals have displacements where the cost model gives them.
GIVEN = {
    "proposals": frozenset({Need.COSTS, Need.GRAM, Need.GRID, Need.GAINS, Need.DISPLACEMENTS}),
    "interpolation": frozenset({Need.ANCHOR, Need.REFERENCE, Need.GRAM, Need.GRID}),
    "anchor_search": frozenset(Need) - {Need.ANCHOR},
    "refinement": frozenset({Need.REFERENCE, Need.EVALUATOR}),
}


def name_of(choice: object) -> str:
    """The name under which a choice is listed: its own, or that of its class."""
    return choice if isinstance(choice, str) else type(choice).__name__


def names_of(choices: Sequence[object]) -> list[str]:
    """The names of several choices, all different."""
    found: list[str] = []
    for name in map(name_of, choices):
        count = sum(other.partition(" #")[0] == name for other in found)
        found.append(f"{name} #{count + 1}" if count else name)
    return found


def solver_of(registry: Registry, choice: str | ScheduleSolver, **offered: Any) -> ScheduleSolver:
    """The solver that was chosen.

    Args:
        registry: where names come from.
        choice: a name, or a solver, which is used as it is.
        offered: options for a solver by name: those that it takes and its plugin does not set.
    """
    if not isinstance(choice, str):
        return choice
    ask = registry.own if choice in OUR_DEFAULTS else registry.resolve
    name = ask("solvers", choice)
    return registry.create("solvers", name, **_taken(registry, "solvers", name, offered))


def cost_model_of(registry: Registry, choice: str | CostModel, **offered: Any) -> CostModel:
    """The cost model that was chosen; arguments as :func:`solver_of`."""
    if not isinstance(choice, str):
        return choice
    ask = registry.own if choice in OUR_DEFAULTS else registry.resolve
    name = ask("cost_models", choice)
    return registry.create("cost_models", name, **_taken(registry, "cost_models", name, offered))


def _taken(registry: Registry, kind: str, name: str, offered: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(registry.get(kind, name)).parameters
    own = next(o for o in registry.known(kind) if name == o.qualified_name).info.options
    return {key: value for key, value in offered.items() if key in known and key not in own}


def gives_vectors(model: CostModel) -> bool:
    """Whether a cost model measures displacements, not only sizes."""
    return type(model).displacements is not CostModel.displacements


def check_choices(recipe: Recipe, registry: Registry) -> None:
    """See that each stage can do with what was chosen for it; runs nothing.

    Raises:
        OtcacheError: if a name is not in the registry, a solver needs what its stage does not have, or a
            forecaster needs weights that are not fitted.
    """
    _check_forecaster(recipe, registry)
    model = cost_model_of(registry, recipe.cost_model)
    for proposal in recipe.proposals:
        _check_needs(
            "proposals", proposal, registry, "" if gives_vectors(model) else name_of(model)
        )
    _check_needs("interpolation", recipe.interpolation, registry)
    _check_needs("anchor_search", recipe.anchor_search, registry)
    if recipe.refinement is None:
        return
    _check_needs("refinement", recipe.refinement, registry)
    fits = solver_of(registry, recipe.refinement, fit=False).abilities.forecasts
    if recipe.forecaster != FITTED and fits:
        raise OtcacheError(
            f"refinement {name_of(recipe.refinement)!r} moves fitted weights, and forecaster "
            f"{recipe.forecaster!r} has none: choose refinement 'refine', or forecaster 'fitted'."
        )


def _check_needs(
    stage: str, choice: str | ScheduleSolver, registry: Registry, sizes_only: str = ""
) -> None:
    given = GIVEN[stage] - ({Need.DISPLACEMENTS} if sizes_only else frozenset())
    needs = solver_of(registry, choice).abilities.needs
    missing = " and ".join(need.value for need in Need if need in needs - given)
    if not missing:
        return
    if not needs - GIVEN[stage]:
        raise OtcacheError(
            f"solver {name_of(choice)!r} needs displacements, and {sizes_only} prices spans by numbers, not "
            "vectors: set Recipe.cost_model to 'displacement'."
        )
    raise OtcacheError(
        f"solver {name_of(choice)!r} as Recipe.{stage} needs {missing}, which is not given there: "
        f"pick one of {', '.join(able_with(registry, given))}."
    )


def able_with(registry: Registry, given: frozenset[Need]) -> list[str]:
    """Names of the solvers that need no more; of otcache's own and those registered by hand."""
    found = []
    for offer in registry.candidates("solvers", foreign=False):
        with suppress(OtcacheError):
            if registry.create("solvers", offer.qualified_name).abilities.needs <= given:
                found.append(offer.info.name)
    return found


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


def check_kinds(recipe: Recipe) -> None:
    """See that each choice is a name or an object of its contract.

    Raises:
        OtcacheError: if one is something else.
    """
    _check_kind("cost_model", recipe.cost_model, CostModel, "a cost model")
    for field in ("interpolation", "anchor_search"):
        _check_kind(field, getattr(recipe, field), ScheduleSolver, "a solver")
    if recipe.refinement is not None:
        _check_kind("refinement", recipe.refinement, ScheduleSolver, "a solver")
    if isinstance(recipe.proposals, str) or not isinstance(recipe.proposals, Sequence):
        raise OtcacheError(expected("Recipe.proposals", recipe.proposals, "a sequence of solvers"))
    if not recipe.proposals:
        raise OtcacheError(expected("Recipe.proposals", recipe.proposals, "at least one solver"))
    for index, proposal in enumerate(recipe.proposals):
        _check_kind(f"proposals[{index}]", proposal, ScheduleSolver, "a solver")
    if not isinstance(recipe.forecaster, str):
        advice = "a schedule holds its name: offer it from a plugin (docs/plugins.md)."
        kind = type(recipe.forecaster).__name__
        raise OtcacheError(expected("Recipe.forecaster", kind, "the name of a forecaster", advice))


def _check_kind(field: str, choice: object, contract: Callable[..., object], what: str) -> None:
    assert isinstance(contract, type)
    if not isinstance(choice, (str, contract)):
        wanted = f"the name of {what}, or a {contract.__name__}"
        raise OtcacheError(expected(f"Recipe.{field}", type(choice).__name__, wanted))
