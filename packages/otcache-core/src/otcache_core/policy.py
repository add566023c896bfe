"""A policy: a schedule for every budget, and the facts that bind it to a pipeline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.planning import forecaster_of
from otcache_core.errors import MismatchError, OtcacheError, ScheduleError, expected
from otcache_core.interpolation import Interpolation, check_monotone, rises, run_of
from otcache_core.notices import notify
from otcache_core.numbers import integer, reals
from otcache_core.playback.table import PlaybackTable, playback_table
from otcache_core.schedule import Schedule, check_budget, check_num_steps
from otcache_core.storage.json_files import load_json, save_json
from otcache_core.targets import (
    FAST,
    QUALITIES,
    Frontier,
    Measured,
    budget_of_speedup,
    error_limit,
    least_budget,
)

if TYPE_CHECKING:
    from otcache_core.plugins.registry import Registry

__all__ = ["Policy", "Provenance"]

FORMAT, VERSION = "otcache-policy", 3


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    r"""Schedules at a few budgets, and by transport between them at every other.

    The nodes are the rungs of the ladder, and anchor and reference if their budget lies outside
    the ladder's. On a node the schedule is the node. Between two fitted neighbours both parts are
    interpolated with lam = (1/B_a - 1/B)/(1/B_a - 1/B_r): the steps by displacement
    (:mod:`otcache_core.transport`), the forecast weights by their strengths theta
    (:mod:`otcache_core.forecasters.strength`), linear forecasts being of strength 1. Beside a node
    that reuses there is reuse, which won because forecasts fail there; between two rules without
    strengths, too; and then uniform steps of a node that was not fitted hold as well. Beyond the
    lowest and the highest node lam is clamped. B = 1 is {0} by reuse, B = N computes everything.
    Steps that single branches skip in addition are kept on the nodes only.

    Args:
        anchor: schedule at an extreme budget.
        reference: schedule at a conservative budget.
        provenance: facts about the pipeline, with N and the grid.
        ladder: fitted schedules of distinct budgets, lowest first.
        solver: name of the solver that chose the steps, if nothing of them was measured on the pipeline;
            else "".
        measured: errors on the calibration samples of the rungs that were measured, lowest budget first.

    Raises:
        OtcacheError: if step counts or the order of the ladder disagree.
    """

    anchor: Schedule
    reference: Schedule
    provenance: Provenance
    ladder: tuple[Schedule, ...] = ()
    solver: str = ""
    measured: tuple[Measured, ...] = ()

    def __post_init__(self) -> None:
        n = self.provenance.num_steps
        parts = {"anchor": self.anchor, "reference": self.reference}
        parts |= {f"ladder[{r}]": rung for r, rung in enumerate(self.ladder)}
        for name, schedule in parts.items():
            if schedule.num_steps != n:
                raise ScheduleError(expected(f"{name}.num_steps", schedule.num_steps, str(n)))
        budgets = [rung.budget for rung in self.ladder]
        known = [one.budget for one in self.measured]
        for what, found in (("ladder", budgets), ("measured", known)):
            if found != sorted(set(found)):
                raise ScheduleError(expected(f"{what} budgets", found, "distinct and increasing"))

    @property
    def num_steps(self) -> int:
        """N."""
        return self.provenance.num_steps

    @cached_property
    def interpolation(self) -> Interpolation:
        """The schedules of all budgets, without checks and notices."""
        nodes = {s.budget: s for s in self.ladder}
        for end in (self.anchor, self.reference):
            if not self.ladder or not self.ladder[0].budget <= end.budget <= self.ladder[-1].budget:
                nodes.setdefault(end.budget, end)
        return Interpolation([nodes[b] for b in sorted(nodes)], self.provenance.grid)

    def schedule(
        self,
        budget: int,
        num_steps: int | None = None,
        grid: Sequence[float] | NDArray[np.float64] | None = None,
        *,
        strict: bool = False,
    ) -> Schedule:
        """Return the schedule of a budget; the same call gives the same object, in well under 1 ms.

        Args:
            budget: B, from 1 to the larger N of policy and run.
            num_steps: N of the run, the policy's by default (or that of the grid).
            grid: s_0 .. s_N of the run, N + 1 numbers of any kind; the policy's by default. Computed
                steps are resampled by noise level if both grids are known, else by position.
                A run of no more steps than the budget computes them all, and so does one that goes
                the other way, as an inversion does.
            strict: refuse another step count or grid instead of mapping with a notice.

        Raises:
            ScheduleError: if the budget is not an integer in this range, or the grid not a grid.
            MismatchError: under strict, if step count or grid are not the policy's.
        """
        own = self.provenance.grid
        n, points = run_of(num_steps, grid, self.num_steps)
        budget = check_budget(budget, max(n, self.num_steps))
        if n == self.num_steps and (not points or not own or same_grid(points, own)):
            return self.interpolation.at(budget)
        check_monotone(points)
        text = f"the run has {n} steps on its own grid, the policy {self.num_steps} on its own"
        if n != self.num_steps:
            steps = "1 step" if n == 1 else f"{n} steps"
            text = f"the run has {steps}, the policy was measured on {self.num_steps}"
        if strict:
            raise MismatchError(f"{text}: calibrate again, or leave strict off to map it.")
        reason = _why_full(budget, n, points, own)
        notify(f"{text}{reason or ': the schedule is mapped.'}")
        return Schedule.full(n) if reason else self.interpolation.mapped(budget, n, points)

    def for_speedup(self, ratio: float) -> int:
        """Return the largest budget B of the policy's own N with N / B of a ratio at least.

        Raises:
            OtcacheError: if the ratio is not in 1 .. N.
        """
        return budget_of_speedup(ratio, self.num_steps)

    def for_error(self, metric: str, value: float, quantile: float | None = None) -> int:
        """Return the least budget that met a target on the calibration samples.

        Where none does but N, that, with a notice. Of runs of the policy's own N.
        :class:`~otcache_core.targets.Frontier` says how errors are read between measured budgets.

        Args:
            metric: ``lpips``, ``rmse`` or another that was measured: at most ``value``. Or ``psnr``: at least
                so many dB, of values in [0, 1].
            value: of the target.
            quantile: share q of new samples that are to meet it, by the rank ceil((n + 1) q) of n calibration
                samples; None: 0.75, or of too few samples for that, the worst of them.

        Raises:
            OtcacheError: if the metric was not measured, the value is no positive number, or there are too
                few samples for the quantile.

        Examples:
            >>> policy.for_error("lpips", 0.05)  # doctest: +SKIP
            10
            >>> policy.for_error("psnr", 30, quantile=0.5)  # doctest: +SKIP
            8
        """
        name, limit = error_limit(metric, value)
        frontier = self.frontier(name, quantile)
        return least_budget(frontier, self.num_steps, limit, f"{metric} {value:g}")

    def for_quality(self, name: str) -> int:
        """Return the budget of a quality, as :meth:`for_error` and :meth:`for_speedup` do.

        Args:
            name: ``lossless``, ``high`` or ``balanced``: LPIPS of at most 0.01, 0.05 or 0.10; or ``fast``:
                N / B of 4.

        Raises:
            OtcacheError: if there is no such quality, or LPIPS was not measured.
        """
        if name == "fast":
            return self.for_speedup(min(FAST, self.num_steps))
        if not isinstance(name, str) or name not in QUALITIES:
            raise OtcacheError(expected("quality", name, f"one of {', '.join(QUALITIES)}, fast"))
        return self.for_error("lpips", QUALITIES[name])

    def frontier(self, metric: str, quantile: float | None = None) -> Frontier:
        """Return the error by a metric against the budget; arguments and errors as :meth:`for_error`."""
        planned = [rung.budget for rung in self.ladder]
        return Frontier(self.measured, metric, self.num_steps, quantile, planned)

    def expected(self, budget: int) -> dict[str, float]:
        """Return the median error on the calibration samples by every metric that was measured.

        Of runs of the policy's own N. Between measured budgets as :class:`~otcache_core.targets.Frontier`
        has it at q = 0.5; without what is not known.
        """
        known = next((one for one in self.measured if one.budget == budget), None)
        if known is not None:
            found = {name: float(np.median(known.values(name))) for name in sorted(known.errors)}
        else:
            found = {name: frontier.error(budget) for name, frontier in self._medians.items()}
        return {name: error for name, error in found.items() if math.isfinite(error)}

    @cached_property
    def _medians(self) -> dict[str, Frontier]:
        names = sorted({name for one in self.measured for name in one.errors})
        return {name: self.frontier(name, 0.5) for name in names}

    def export(
        self,
        budget: int,
        num_steps: int | None = None,
        grid: Sequence[float] | NDArray[np.float64] | None = None,
        *,
        registry: Registry | None = None,
    ) -> PlaybackTable:
        """Return the plan of a budget as a table of numbers, which any engine can follow.

        Args:
            budget: as of :meth:`schedule`.
            num_steps: as of :meth:`schedule`.
            grid: as of :meth:`schedule`; of a run of the policy's own step count the policy's by default.
            registry: has the forecaster; that of the installed plugins by default.

        Raises:
            OtcacheError: as :meth:`schedule`; if velocity predictions are to be converted and no grid is
                known; if the forecaster is not installed.
        """
        from otcache_core.plugins.registry import installed

        schedule = self.schedule(budget, num_steps, grid)
        forecaster = forecaster_of(registry or installed(), schedule.forecaster)
        if grid is None and schedule.num_steps == self.num_steps:
            grid = self.provenance.grid
        return playback_table(schedule, forecaster, () if grid is None else grid, self.provenance)

    def check(self, provenance: Mapping[str, Any], strict: bool = False) -> list[str]:
        """Compare with the pipeline at hand: see :meth:`Provenance.check`.

        Raises:
            MismatchError: if the model or prediction type differs; under strict for any difference.
        """
        return self.provenance.check(provenance, strict)

    def save(self, path: str | Path) -> None:
        """Write the policy file, whole or not at all.

        Raises:
            FileError: if it cannot be written.
        """
        save_json(path, FORMAT, VERSION, self)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a policy file.

        Raises:
            FileError: if it is missing, truncated, of another version or holds a bad value.
        """
        return load_json(path, FORMAT, VERSION, cls)


def _why_full(budget: int, n: int, points: tuple[float, ...], own: tuple[float, ...]) -> str:
    """Return why a run computes every step; "" if it follows the policy."""
    if budget >= n:
        return f", and the budget is {budget}: every step is computed."
    if points and own and rises(points) != rises(own):
        return (
            ", and its noise levels go the other way, as in an inversion: every step is computed."
        )
    return ""


#: Another value of these is another model: its weights would forecast nonsense.
BINDING = ("model_class", "config_hash", "prediction_type")
#: Another value of these changes how well the policy fits: a notice, and an error under strict.
NOTICED = ("scheduler_class", "guidance", "resolution", "num_steps", "grid")


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a policy comes from; an empty value is unknown and is not compared.

    Args:
        model_class: class of the denoiser.
        config_hash: hash of its configuration.
        scheduler_class: class of the sampler.
        prediction_type: what the denoiser predicts: ``flow``, ``epsilon``, ``v_prediction``, ...
        guidance: guidance mode, such as ``none``, ``embedded 3.5`` or ``cfg 3.0``.
        resolution: latent token count (the resolution class).
        num_steps: N; at least 1.
        inference_steps: ``num_inference_steps`` of the pipeline call, if its sampler makes another number
            of steps (Heun, PNDM); 0 if it makes N.
        grid: s_0 .. s_N, N + 1 finite values; empty if unknown.
        prompts_digest: digest of the calibration prompts and seeds.
        versions: package to version.

    Raises:
        OtcacheError: if a value is out of range.
    """

    num_steps: int
    model_class: str = ""
    config_hash: str = ""
    scheduler_class: str = ""
    prediction_type: str = ""
    guidance: str = ""
    resolution: int = 0
    inference_steps: int = 0
    grid: tuple[float, ...] = ()
    prompts_digest: str = ""
    versions: dict[str, str] = {}  # msgspec copies the default

    def __post_init__(self) -> None:
        check_num_steps(integer("provenance.num_steps", self.num_steps), "provenance.num_steps")
        for name in ("num_steps", "resolution", "inference_steps"):
            value = integer(f"provenance.{name}", getattr(self, name), 0)
            msgspec.structs.force_setattr(self, name, value)
        points = tuple(reals("provenance.grid", self.grid))
        msgspec.structs.force_setattr(self, "grid", points)
        n = self.num_steps
        if self.grid and len(self.grid) != n + 1:
            got = f"{len(self.grid)} values"
            raise OtcacheError(expected("provenance.grid", got, f"{n + 1} values s_0 .. s_N"))
        if not all(map(math.isfinite, self.grid)):
            raise OtcacheError(expected("provenance.grid", self.grid, "finite"))

    def __hash__(self) -> int:
        return hash((self.num_steps, self.model_class, self.config_hash, self.grid))

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Provenance:
        """Build from the facts of a probe, with the ``grid`` added.

        None means unknown; ``guidance`` may be a number.

        Raises:
            OtcacheError: if a key is unknown or a value has the wrong type or range.
        """
        known = {key: value for key, value in facts.items() if value is not None}
        if "guidance" in known:
            known["guidance"] = str(known["guidance"])
        if "grid" in known:
            known["grid"] = tuple(float(s) for s in known["grid"])
        try:
            return msgspec.convert(known, cls)
        except msgspec.ValidationError as error:
            raise OtcacheError(
                f"provenance: {error}; keys are {', '.join(cls.__struct_fields__)}."
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return data

    def check(self, facts: Mapping[str, Any], strict: bool = False) -> list[str]:
        """Compare with the pipeline at hand; facts that either side does not know are not compared.

        Args:
            facts: as :meth:`from_dict`, any part of it.
            strict: refuse what would only be a notice.

        Returns:
            One sentence for each difference that the policy can be mapped across.

        Raises:
            MismatchError: if the model or prediction type differs; under strict for any difference.
        """
        notices = []
        for field in (*BINDING, *NOTICED):
            got, wanted = facts.get(field), getattr(self, field)
            if not wanted or not _known(got) or _same(got, wanted):
                continue
            text = _difference(field, got, wanted)
            if field in BINDING:
                raise MismatchError(
                    f"{text}: a policy holds for the model it was measured on; calibrate again."
                )
            if strict:
                raise MismatchError(
                    f"{text} under strict: calibrate again, or leave strict off to map it."
                )
            notices.append(f"{text}: quality was measured on the latter only.")
        return notices


def same_grid(got: Any, wanted: Any) -> bool:
    """Whether two grids agree to 1e-4 of their largest value (bfloat16 schedulers round)."""
    if len(got) != len(wanted):
        return False
    tolerance = 1e-4 * max(abs(float(s)) for s in wanted)
    return all(abs(float(a) - float(b)) <= tolerance for a, b in zip(got, wanted, strict=True))


def _known(value: Any) -> bool:
    return value is not None and (len(value) > 0 if hasattr(value, "__len__") else value != 0)


def _same(got: Any, wanted: Any) -> bool:
    if isinstance(wanted, tuple):
        return same_grid(got, wanted)
    return str(got) == str(wanted)


def _difference(field: str, got: Any, wanted: Any) -> str:
    name = field.replace("_", " ")
    if isinstance(wanted, tuple):
        return f"{name} differs: got {_brief(got)}, expected {_brief(wanted)}"
    return f"{name} differs: got {got!r}, expected {wanted!r}"


def _brief(grid: Any) -> str:
    return f"{len(grid)} values from {float(grid[0]):.4g} to {float(grid[-1]):.4g}"
