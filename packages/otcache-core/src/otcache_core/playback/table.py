"""A plan as numbers alone: which step is computed, and the weighted sum that replaces each other one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.planning import LOOKED_AT, Forecaster, NamedForecaster
from otcache_core.errors import OtcacheError, ScheduleError, expected
from otcache_core.numbers import reals
from otcache_core.playback.branch_plan import BranchPlan, OrderChoice, Terms
from otcache_core.schedule import MAX_WEIGHT, Schedule, Span, check_num_steps
from otcache_core.storage.json_files import load_json, save_json

if TYPE_CHECKING:
    from otcache_core.policy import Provenance

FORMAT, VERSION = "otcache-playback", 2
#: What denoisers predict, as multiples (e, d) of noise and data given alpha and sigma.
PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow")


class PlaybackTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    r"""Everything that a sampler must know to skip steps: no plugin, no fit, no noise schedule is needed.

    At step t of branch b: if ``branches[b].forecasts[t]`` is None call the denoiser, and keep its output
    q_t until step ``needed_until[t]``; else use

    .. math:: q_t = \sum_k A_{t,k}\, q_k

    Outputs are kept and combined in the quantity ``forecast_in``. If the denoiser predicts another,
    ``prediction``, both are multiples of noise and data, as is the state x_t = alpha_t x_0 + sigma_t epsilon,
    so that q_t = a_t p_t + b_t x_t (:meth:`conversion`).

    Args:
        num_steps: N.
        branches: the plan of each branch that has one of its own; "" is that of every other.
        prediction: what the denoiser predicts: one of :data:`PREDICTIONS`, or "" if that is not known.
        forecast_in: the quantity in which the coefficients hold; equal to ``prediction`` if nothing is to
            be converted.
        alphas: alpha_0 .. alpha_{N-1}; empty if nothing is to be converted.
        sigmas: sigma_0 .. sigma_{N-1}, as ``alphas``.
        grid: s_0 .. s_N for which the coefficients were made; empty if it is not known.
        provenance: SHA-256 of the policy's provenance; "" if the table is of a schedule alone.
        notes: steps that are computed although they were to be skipped, and why.

    Raises:
        OtcacheError: if lengths disagree, or a conversion is not possible.
    """

    num_steps: int
    branches: dict[str, BranchPlan]
    prediction: str = ""
    forecast_in: str = ""
    alphas: tuple[float, ...] = ()
    sigmas: tuple[float, ...] = ()
    grid: tuple[float, ...] = ()
    provenance: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_num_steps(self.num_steps)
        if "" not in self.branches:
            raise ScheduleError(expected("branches", sorted(self.branches), "with one named ''"))
        for name, plan in self.branches.items():
            if len(plan.forecasts) != self.num_steps:
                wanted = f"one entry for each of {self.num_steps} steps"
                got = f"{len(plan.forecasts)} entries"
                raise ScheduleError(expected(f"branch {name!r}: forecasts", got, wanted))
        if self.grid and len(self.grid) != self.num_steps + 1:
            got = f"{len(self.grid)} values"
            raise ScheduleError(expected("grid", got, f"{self.num_steps + 1} values or none"))
        if self.converts:
            self._check_conversion()

    def _check_conversion(self) -> None:
        for name in ("prediction", "forecast_in"):
            if getattr(self, name) not in PREDICTIONS:
                raise OtcacheError(expected(name, getattr(self, name), f"one of {PREDICTIONS}"))
        for name in ("alphas", "sigmas"):
            if len(getattr(self, name)) != self.num_steps:
                got = f"{len(getattr(self, name))} values"
                raise OtcacheError(expected(name, got, f"{self.num_steps} values, to convert"))
        for step, (a, b) in enumerate(self._conversions):
            factors = (a, b, 1.0 / a, b / a) if a else (math.inf,)
            if not all(abs(factor) <= MAX_WEIGHT for factor in factors):
                what = f"the conversion of step {step} from {self.prediction} to {self.forecast_in}"
                got = f"alpha {self.alphas[step]}, sigma {self.sigmas[step]}"
                raise OtcacheError(expected(what, got, "possible and reversible"))

    @property
    def budget(self) -> int:
        """B, the number of computed steps of a branch without a plan of its own."""
        return len(self.branches[""].computed)

    @property
    def converts(self) -> bool:
        """Whether outputs are converted before they are kept, and forecasts back."""
        return self.prediction != self.forecast_in

    def plan(self, branch: str) -> BranchPlan:
        """Return the plan of a branch."""
        return self.branches.get(branch) or self.branches[""]

    def conversion(self, step: int) -> tuple[float, float]:
        r"""Return (a, b) of q = a p + b x, with p the prediction and q what is forecast; p = (q - b x) / a.

        With p = e epsilon + d x_0, q = e' epsilon + d' x_0, and D = e alpha - d sigma,

        .. math:: a = (e' \alpha - d' \sigma) / D, \qquad b = (e d' - d e') / D

        where (e, d) is (1, 0) of epsilon, (0, 1) of x_0, (alpha, -sigma) of v and (1, -1) of a flow.
        """
        return self._conversions[step] if self.converts else (1.0, 0.0)

    @cached_property
    def _conversions(self) -> list[tuple[float, float]]:
        levels = zip(self.alphas, self.sigmas, strict=True)
        return [_conversion(self.prediction, self.forecast_in, *level) for level in levels]

    def save(self, path: str | Path) -> None:
        """Write it as JSON, atomically.

        Raises:
            FileError: if the file cannot be written.
        """
        save_json(path, FORMAT, VERSION, self)

    @classmethod
    def load(cls, path: str | Path) -> PlaybackTable:
        """Read what :meth:`save` wrote.

        Raises:
            FileError: naming file, field, got and expected.
        """
        return load_json(path, FORMAT, VERSION, cls)


def _conversion(source: str, wanted: str, alpha: float, sigma: float) -> tuple[float, float]:
    parts = {
        "epsilon": (1.0, 0.0),
        "sample": (0.0, 1.0),
        "v_prediction": (alpha, -sigma),
        "flow": (1.0, -1.0),
    }
    (e, d), (wanted_e, wanted_d) = parts[source], parts[wanted]
    determinant = e * alpha - d * sigma
    if determinant == 0.0:
        return math.nan, math.nan
    return (
        (wanted_e * alpha - wanted_d * sigma) / determinant,
        (e * wanted_d - d * wanted_e) / determinant,
    )


def playback_table(
    schedule: Schedule,
    forecaster: Forecaster,
    grid: Sequence[float] | NDArray[np.float64] = (),
    provenance: Provenance | None = None,
) -> PlaybackTable:
    """Make the table of a schedule on a grid; the forecaster gives the coefficients of each span once.

    Coefficients of 0 are omitted unless all are. Steps of a span for which the forecaster gives no finite
    coefficients are computed, and ``notes`` says so. Velocity predictions of a variance-preserving sampler
    are forecast as noise, as the policy measured them: see :class:`PlaybackTable`.

    Args:
        schedule: what is computed.
        forecaster: what its skipped steps are forecast by.
        grid: s_0 .. s_N; if it is empty, 1 - i/N.
        provenance: of the policy, which says what the denoiser predicts.

    Raises:
        ScheduleError: if the grid is not a row of N + 1 numbers, or is needed to convert and missing.
    """
    n = schedule.num_steps
    points = np.array(reals("grid", grid, kind=ScheduleError) or np.linspace(1.0, 0.0, n + 1))
    if len(points) != n + 1:
        raise ScheduleError(expected("grid", f"{len(points)} values", f"{n + 1} values"))
    if not isinstance(forecaster, NamedForecaster):
        forecaster = NamedForecaster(forecaster, repr(schedule.forecaster))
    named = (name for name, _ in (*schedule.branches, *schedule.branch_weights))
    names = {"", *named, *forecaster.branches}
    notes: list[str] = []
    plans = {name: _plan(schedule, name, forecaster, points, notes) for name in sorted(names)}
    known = tuple(map(float, grid))
    if provenance is None:
        return PlaybackTable(n, plans, grid=known, notes=tuple(notes))
    facts = _prediction_facts(provenance.prediction_type, known)
    digest = hashlib.sha256(msgspec.json.encode(provenance, order="sorted")).hexdigest()
    return PlaybackTable(n, plans, grid=known, provenance=digest, notes=tuple(notes), **facts)


def _prediction_facts(prediction: str, grid: tuple[float, ...]) -> Mapping[str, Any]:
    """Return the fields of a table about conversion; s = sigma / alpha with alpha^2 + sigma^2 = 1."""
    if prediction != "v_prediction":
        return {"prediction": prediction, "forecast_in": prediction}
    if not grid:
        raise ScheduleError("velocity predictions are forecast as noise: give grid=, s_0 .. s_N.")
    alphas = tuple(1.0 / math.hypot(1.0, s) for s in grid[:-1])
    sigmas = tuple(s * alpha for s, alpha in zip(grid, alphas, strict=False))
    return {
        "prediction": prediction,
        "forecast_in": "epsilon",
        "alphas": alphas,
        "sigmas": sigmas,
    }


def _plan(
    schedule: Schedule,
    branch: str,
    forecaster: NamedForecaster,
    grid: NDArray[np.float64],
    notes: list[str],
) -> BranchPlan:
    forecasts: list[Terms | None] = [None] * schedule.num_steps
    orders: list[tuple[Terms, ...]] = [()] * schedule.num_steps
    choices: list[OrderChoice | None] = [None] * schedule.num_steps
    refused: dict[str, str] = {}
    for span in schedule.spans(branch):
        table = _coefficients(span, forecaster, grid) if span.skipped else None
        if isinstance(table, str):
            refused[f"({span.start} -> {span.stop})"] = table
        elif table is not None:
            inside = slice(span.start + 1, span.stop)
            forecasts[inside] = _terms(span, table)
            if found := forecaster.orders(span, grid):
                orders[inside] = zip(*(_terms(span, t) for t in found.tables), strict=True)
                steps = (span.start, *span.history)[:LOOKED_AT]
                choices[span.start] = OrderChoice(steps, found.ramps)
    if refused:
        notes.extend({_refusal(forecaster.title, refused)} - set(notes))
    return BranchPlan.of(forecasts, orders, choices) if any(choices) else BranchPlan.of(forecasts)


def _coefficients(
    span: Span, forecaster: NamedForecaster, grid: NDArray[np.float64]
) -> NDArray[np.float64] | str:
    """Return A, shape (skipped steps, outputs); if the forecaster gives none, what it did instead."""
    table = forecaster.table(span, grid)
    if isinstance(table, OtcacheError):
        return f"{type(table).__name__}: {table}"
    if isinstance(table, str) or (np.abs(table) <= MAX_WEIGHT).all():
        return table
    return str(table.tolist())


def _terms(span: Span, table: NDArray[np.float64]) -> list[Terms]:
    """Return the forecasts of a span; one of zero still has the form of an output."""
    steps = (span.start, *span.history)
    rows = ([(k, float(a)) for k, a in zip(steps, row, strict=False) if a] for row in table)
    return [tuple(row) or ((span.start, 0.0),) for row in rows]


def _refusal(title: str, refused: Mapping[str, str]) -> str:
    """Say what a forecaster gave instead of coefficients, by the first of the spans."""
    spans = f"the span{'s' if len(refused) > 1 else ''} {', '.join(refused)}"
    return (
        f"forecaster {title} must give finite coefficients for {spans}, got "
        f"{next(iter(refused.values()))} (at most {MAX_WEIGHT:g} in size): use another forecaster, or "
        "another grid= if two steps of yours are alike."
    )
