"""Results from what methods have finished."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.comparison.folder import REFERENCE, Floats, Folder, MethodFolder, Plan, Run
from otcache.comparison.job import Job
from otcache.comparison.metrics import ODE, STATES, Measures
from otcache.comparison.timing import speed
from otcache.opening import FRAMES_PER_SECOND
from otcache.progress import Advance, Stages
from otcache.report.images import Pictures
from otcache.report.results import FULL, Cell, Missing, Results
from otcache_core import OtcacheError
from otcache_core.errors import expected
from otcache_core.notices import notify


@dataclass(frozen=True)
class Assembly:
    """Reads a folder.

    Args:
        folder: of the comparison; the full runs in it are finished.
        measures: the table's metrics.
        stages: show how many cells are measured.
    """

    folder: Folder
    measures: Measures
    stages: Stages = field(default_factory=lambda: Stages(show=False))

    def results(
        self, methods: Sequence[str], provenance: dict[str, Any], command: str
    ) -> tuple[Results, Pictures]:
        """What is finished of these methods, and why the rest is not.

        Raises:
            OtcacheError: if nothing could be run.
        """
        job, full = self.folder.job, self.folder.of(FULL)
        if full.run(FULL) is None:
            why = "; ".join(full.failures().values()) or f"see {full.log}"
            raise OtcacheError(f"the full runs could not be made: {why}")
        base = full.arrays(FULL)
        plans = {name: self.folder.of(name).plan() or Plan("", 0, ()) for name in methods}
        missing = [m for n, plan in plans.items() for m in _missing(n, self.folder.of(n), plan)]
        pictures = Stored({(FULL, job.num_steps): (full, FULL)})
        with self.stages.stage("comparing with full runs") as advance:
            measures = self.measures.usable(base["pictures"], job.prompts)
            judge = _Judge(job, measures, base, self._reference(full))
            cells = self._cells(judge, plans, pictures, missing, advance)
        if not cells:
            raise OtcacheError("no method could be run: " + "; ".join(m.reason for m in missing))
        full_metrics, full_means = judge.full_values(), judge.full_means()
        lost = measures.lost
        missing += measures.missing()
        results = Results(
            title=job.title,
            num_steps=job.num_steps,
            labels=job.samples,
            cells=tuple(without(cell, lost) for cell in cells),
            provenance=provenance,
            command=command,
            sources={name: plan.source for name, plan in plans.items() if plan.source},
            prices={n: plan.price for n, plan in plans.items() if plan.price is not None},
            missing=tuple(missing),
            full={name: mean for name, mean in full_means.items() if name not in lost},
            full_metrics={name: each for name, each in full_metrics.items() if name not in lost},
            higher_is_better=measures.directions(),
            frames_per_second=_rate(job, base["pictures"]),
        )
        return results, pictures

    def _cells(
        self,
        judge: _Judge,
        plans: Mapping[str, Plan],
        pictures: Stored,
        missing: list[Missing],
        advance: Advance,
    ) -> list[Cell]:
        """Measure what is finished, and take down where its images are, or why they cannot be measured."""
        places = [(name, *place) for name, plan in plans.items() for place in plan.labels]
        cells = []
        for done, (method, budget, label) in enumerate(places, 1):
            part = self.folder.of(method)
            run = part.run(label)
            if run is not None:
                try:
                    arrays = part.arrays(label)
                    judge.check(arrays)
                    cells.append(judge.cell(method, budget, run, arrays))
                    pictures.places[method, budget] = (part, label)
                except OtcacheError as error:
                    missing.append(Missing(method, budget, str(error)))
            advance(done, len(places))
        return cells

    def _reference(self, full: MethodFolder) -> Floats | None:
        """Images of the ODE's solution; None where none are wanted, or, with a notice, could be made."""
        if not self.folder.job.reference_steps:
            return None
        if full.run(REFERENCE) is not None:
            return full.arrays(REFERENCE)["pictures"]
        why = "; ".join(full.failures().values()) or f"see {full.log}"
        notify(f"{ODE} is left out: {why}")
        return None


def without(cell: Cell, lost: Collection[str]) -> Cell:
    """Return a cell without the columns of some metrics."""
    return replace(
        cell,
        metrics={name: values for name, values in cell.metrics.items() if name not in lost},
        totals={name: total for name, total in cell.totals.items() if name not in lost},
    )


@dataclass(frozen=True)
class Stored(Mapping[tuple[str, int], Floats]):
    """Pictures or clips of finished runs, read when they are asked for: those of all are too many.

    Args:
        places: (method, budget) to the folder, and the label in it.
    """

    places: dict[tuple[str, int], tuple[MethodFolder, str]] = field(default_factory=dict)

    def __getitem__(self, key: tuple[str, int]) -> Floats:
        part, label = self.places[key]
        return part.arrays(label)["pictures"]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class _Judge:
    """Measures runs against the full run and the ODE's solution."""

    job: Job
    measures: Measures
    base: dict[str, Floats]
    reference: Floats | None

    def check(self, arrays: dict[str, Floats]) -> None:
        """See that what a method made can be set beside the full run.

        Raises:
            OtcacheError: naming what cannot.
        """
        for name, made in arrays.items():
            full = self.base.get(name)
            if full is not None and made.shape != full.shape:
                wanted = f"{full.shape} as the full run's"
                raise OtcacheError(expected(f"the shape of its {name}", made.shape, wanted))
            if not np.isfinite(made).all():
                raise OtcacheError(expected(f"its {name}", "NaN or infinity", "finite"))
        low, high = float(arrays["pictures"].min()), float(arrays["pictures"].max())
        if low < 0 or high > 1:
            raise OtcacheError(expected("its pictures", f"{low:.4g} to {high:.4g}", "in [0, 1]"))

    def cell(self, method: str, budget: int, run: Run, arrays: dict[str, Floats]) -> Cell:
        ideal = self.job.num_steps / run.nfe
        return Cell(
            method=method,
            budget=budget,
            nfe=run.nfe,
            ideal_speedup=ideal,
            schedule=run.computed if run.num_steps == self.job.num_steps else None,
            metrics=self._values(arrays),
            totals=self.measures.totals(arrays["pictures"]),
            setting="" if run.label == f"B = {budget}" else run.label,
            flops=run.flops,
            peak_bytes=run.peak_bytes,
            **speed(run.pairs, ideal).facts(),
        )

    def full_values(self) -> dict[str, tuple[float, ...]]:
        """What the full run itself gets, a sample, where it is not the measure."""
        full = self.base["pictures"]
        values = self.measures.of_full_runs(full, self.job.prompts)
        if self.reference is not None:
            values[ODE] = state_rmse(full, self.reference)
        return {name: tuple(map(float, each)) for name, each in values.items()}

    def full_means(self) -> dict[str, float]:
        """The same over all samples, and metrics of the whole set."""
        means = {name: statistics.fmean(each) for name, each in self.full_values().items()}
        return means | self.measures.totals(self.base["pictures"])

    def _values(self, arrays: dict[str, Floats]) -> dict[str, tuple[float, ...]]:
        made = arrays["pictures"]
        values = self.measures.values(made, self.base["pictures"], self.job.prompts)
        if "states" in arrays and "states" in self.base:
            values[STATES] = state_rmse(arrays["states"], self.base["states"])
        if self.reference is not None:
            values[ODE] = state_rmse(made, self.reference)
        return {name: tuple(map(float, each)) for name, each in values.items()}


def _rate(job: Job, made: Floats) -> float:
    """At which clips play; 0 where these are pictures."""
    return (job.frames_per_second or FRAMES_PER_SECOND) if made.ndim == 5 else 0.0


def _missing(method: str, part: MethodFolder, plan: Plan) -> list[Missing]:
    """Why budgets of a method are empty; one reason for all where it never ran."""
    failed = part.failures()
    if "" in failed and not plan.labels:
        return [Missing(method, None, failed[""])]
    found = list(plan.missing)
    for budget, label in plan.labels:
        if part.run(label) is None:
            found.append(Missing(method, budget, failed.get(label) or failed.get("", "not run")))
    return found


def state_rmse(
    states: NDArray[np.floating], reference: NDArray[np.floating]
) -> NDArray[np.float64]:
    r"""How far states are from a reference, sample by sample.

    .. math:: \sqrt{\frac1d \sum_e (x_e - y_e)^2}

    Args:
        states: shape (n, ...), d elements a sample.
        reference: the same shape.

    Returns:
        Shape (n,), float64, in units of the states.

    Raises:
        OtcacheError: if shapes differ or values are not finite.
    """
    x, y = np.asarray(states, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if x.shape != y.shape or x.ndim < 2:
        raise OtcacheError(expected("states", x.shape, f"shape {y.shape}, as the reference's"))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise OtcacheError("states must be finite, got NaN or infinity.")
    error = np.sqrt(np.mean((x - y) ** 2, axis=tuple(range(1, x.ndim))))
    return np.asarray(error, dtype=np.float64)
