"""Collect the results from what methods have finished."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.comparison.folder import SOLUTION, Assignment, Floats, Folder, MethodFolder, Run
from otcache.comparison.job import Job
from otcache.comparison.metrics import ODE, STATES, Measures
from otcache.comparison.timing import speed
from otcache.pipelines import FRAMES_PER_SECOND
from otcache.progress import Advance, Stages
from otcache.report.results import FULL, Cell, Missing, Results
from otcache_core import OtcacheError
from otcache_core.errors import expected
from otcache_core.notices import notify


@dataclass(frozen=True)
class Assembly:
    """Makes the results of a folder.

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
    ) -> tuple[Results, Stored]:
        """Return what is finished of these methods, why the rest is not, and the images.

        Raises:
            OtcacheError: if nothing could be run.
        """
        job, full = self.folder.job, self.folder.of(FULL)
        if full.run(FULL) is None:
            raise OtcacheError(f"the full runs could not be made: {_reasons(full)}")
        base = full.arrays(FULL)
        none = Assignment("", 0, ())
        assigned = {name: self.folder.of(name).assignment() or none for name in methods}
        missing = [m for n, each in assigned.items() for m in _missing(n, self.folder.of(n), each)]
        images = Stored({(FULL, job.num_steps): (full, FULL)})
        with self.stages.stage("comparing with full runs") as advance:
            measures = self.measures.usable(base["images"], job.prompts)
            judge = _Judge(job, measures, base, self._solution(full))
            cells = self._cells(judge, assigned, images, missing, advance)
        if not cells:
            raise OtcacheError("no method could be run: " + "; ".join(m.reason for m in missing))
        full_metrics = judge.full_metrics()
        full_means = {name: statistics.fmean(each) for name, each in full_metrics.items()}
        full_means |= measures.totals(base["images"])
        lost, rate = measures.lost, job.frames_per_second or FRAMES_PER_SECOND
        results = Results(
            title=job.title,
            num_steps=job.num_steps,
            labels=job.samples,
            cells=tuple(_without(cell, lost) for cell in cells),
            provenance=provenance,
            command=command,
            sources={name: each.source for name, each in assigned.items() if each.source},
            calibration_nfe={
                name: each.calibration_nfe
                for name, each in assigned.items()
                if each.calibration_nfe is not None
            },
            missing=(*missing, *measures.missing()),
            full={name: mean for name, mean in full_means.items() if name not in lost},
            full_metrics={name: each for name, each in full_metrics.items() if name not in lost},
            higher_is_better=measures.directions(),
            frames_per_second=rate if base["images"].ndim == 5 else 0.0,
        )
        return results, images

    def _cells(
        self,
        judge: _Judge,
        assigned: Mapping[str, Assignment],
        images: Stored,
        missing: list[Missing],
        advance: Advance,
    ) -> list[Cell]:
        """Measure what is finished; note where its images are, or why they cannot be measured."""
        places = [(name, *place) for name, each in assigned.items() for place in each.labels]
        cells = []
        for done, (method, budget, label) in enumerate(places, 1):
            part = self.folder.of(method)
            run = part.run(label)
            if run is not None:
                try:
                    arrays = part.arrays(label)
                    judge.check(arrays)
                    cells.append(judge.cell(method, budget, run, arrays))
                    images.places[method, budget] = (part, label)
                except OtcacheError as error:
                    missing.append(Missing(method, budget, str(error)))
            advance(done, len(places))
        return cells

    def _solution(self, full: MethodFolder) -> Floats | None:
        """Return images of the many-step solution; None if not wanted or, with a notice, not made."""
        if not self.folder.job.reference_steps:
            return None
        if full.run(SOLUTION) is not None:
            return full.arrays(SOLUTION)["images"]
        notify(f"{ODE} is omitted: {_reasons(full)}")
        return None


def _reasons(full: MethodFolder) -> str:
    return "; ".join(full.failures().values()) or f"see {full.log}"


def _without(cell: Cell, lost: Collection[str]) -> Cell:
    """Return a cell without the columns of some metrics."""
    return replace(
        cell,
        metrics={name: values for name, values in cell.metrics.items() if name not in lost},
        totals={name: total for name, total in cell.totals.items() if name not in lost},
    )


@dataclass(frozen=True)
class Stored(Mapping[tuple[str, int], Floats]):
    """Images or videos of finished runs, read when they are looked up: those of all are too many.

    Args:
        places: (method, budget) to the folder, and the label in it.
    """

    places: dict[tuple[str, int], tuple[MethodFolder, str]] = field(default_factory=dict)

    def __getitem__(self, key: tuple[str, int]) -> Floats:
        part, label = self.places[key]
        return part.arrays(label)["images"]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class _Judge:
    """Measures runs against the full run and the many-step solution."""

    job: Job
    measures: Measures
    base: dict[str, Floats]
    solution: Floats | None

    def check(self, arrays: dict[str, Floats]) -> None:
        """Check that what a method made can be compared with the full run.

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
        low, high = float(arrays["images"].min()), float(arrays["images"].max())
        if low < 0 or high > 1:
            raise OtcacheError(expected("its images", f"{low:.4g} to {high:.4g}", "in [0, 1]"))

    def cell(self, method: str, budget: int, run: Run, arrays: dict[str, Floats]) -> Cell:
        """Return the figures of a run."""
        ideal = self.job.num_steps / run.nfe
        return Cell(
            method=method,
            budget=budget,
            nfe=run.nfe,
            ideal_speedup=ideal,
            schedule=run.computed if run.num_steps == self.job.num_steps else None,
            metrics=self._values(arrays),
            totals=self.measures.totals(arrays["images"]),
            setting="" if run.label == f"B = {budget}" else run.label,
            flops=run.flops,
            peak_bytes=run.peak_bytes,
            **speed(run.pairs, ideal).facts(),
        )

    def full_metrics(self) -> dict[str, tuple[float, ...]]:
        """Return what the full run itself gets, a sample, from metrics that do not compare with it."""
        full = self.base["images"]
        values = self.measures.of_full_runs(full, self.job.prompts)
        if self.solution is not None:
            values[ODE] = state_rmse(full, self.solution)
        return {name: tuple(map(float, each)) for name, each in values.items()}

    def _values(self, arrays: dict[str, Floats]) -> dict[str, tuple[float, ...]]:
        images = arrays["images"]
        values = self.measures.values(images, self.base["images"], self.job.prompts)
        if "states" in arrays and "states" in self.base:
            values[STATES] = state_rmse(arrays["states"], self.base["states"])
        if self.solution is not None:
            values[ODE] = state_rmse(images, self.solution)
        return {name: tuple(map(float, each)) for name, each in values.items()}


def _missing(method: str, part: MethodFolder, assigned: Assignment) -> list[Missing]:
    """Return why budgets of a method are empty; one reason for all if it never ran."""
    failed = part.failures()
    if "" in failed and not assigned.labels:
        return [Missing(method, None, failed[""])]
    missing = list(assigned.missing)
    if part.assignment() is None:
        missing.append(Missing(method, None, failed.get("", "not run")))
    for budget, label in assigned.labels:
        if part.run(label) is None:
            missing.append(Missing(method, budget, failed.get(label) or failed.get("", "not run")))
    return missing


def state_rmse(
    states: NDArray[np.floating], reference: NDArray[np.floating]
) -> NDArray[np.float64]:
    r"""Return how far states are from a reference, sample by sample.

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
