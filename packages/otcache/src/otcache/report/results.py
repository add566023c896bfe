"""The figures of a comparison, what a report is made of, and how each metric is written."""

from __future__ import annotations

import math
import types
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from otcache_core import OtcacheError
from otcache_core.errors import expected
from otcache_core.schedule import check_num_steps
from otcache_core.storage.files import bad_file
from otcache_core.storage.json_files import load_json, save_json

FORMAT, VERSION = "otcache-results", 6
#: Names the full run where methods are named: no plugin can be called so.
FULL = "full run"
Label = tuple[str, int, str]
#: Methods times budgets that a report can show: of more nobody sees anything.
MAX_CELLS = 1000


@dataclass(frozen=True)
class Cell:
    """One method at one budget, over all samples.

    Args:
        method: name of the row.
        budget: B of the group that the row is in.
        nfe: network evaluations of one sample; whole ones that cost as much, if a method skips
            parts of them; the mean over samples, if inputs decide.
        ideal_speedup: N / NFE.
        measured_speedup: seconds of a full run over this method's, whole pipeline calls of one sample,
            median over pairs (:mod:`otcache.comparison.timing`); None if it was not measured, or is
            withheld.
        schedule: computed steps of 0 .. N-1; None if the method runs another grid.
        metrics: metric name to one value per sample, in the order of ``Results.labels``;
            ``inf`` is the PSNR of identical images.
        setting: what the method was set to, as ``threshold=0.12``; empty where B says it all.
        totals: metric name to one value of all samples together: a distance of distributions.
        seconds: of one sample, median over the pairs, the whole pipeline call; None alike.
        flops: of one sample, mean over samples, without decoding; None if not counted.
        peak_bytes: most memory held while a sample was made; None if not known. Differs from run
            to run, as times, speedups and their spreads do and nothing else.
        speedup_spread, seconds_spread: of the two medians: half the length of their intervals.
        withheld: why there is no speedup though pairs were timed.

    Raises:
        OtcacheError: if a value is out of range or NaN.
    """

    method: str
    budget: int
    nfe: float
    ideal_speedup: float
    measured_speedup: float | None
    schedule: tuple[int, ...] | None
    metrics: dict[str, tuple[float, ...]]
    setting: str = ""
    totals: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    flops: float | None = None
    peak_bytes: int | None = None
    speedup_spread: float | None = None
    seconds_spread: float | None = None
    withheld: str = ""

    def __post_init__(self) -> None:
        where = f"{self.method} at budget {self.budget}"
        if self.budget < 1 or not (math.isfinite(self.nfe) and self.nfe > 0):
            got = (self.budget, self.nfe)
            raise OtcacheError(expected(f"{where}: budget and nfe", got, "at least 1 and above 0"))
        known = {"flops": self.flops, "peak_bytes": self.peak_bytes}
        counted = {name: value for name, value in known.items() if value is not None}
        for name, total in (self.totals | counted).items():
            if not math.isfinite(total) or (name in counted and total < 0):
                raise OtcacheError(expected(f"{where}: {name}", total, "finite"))
        self._check_times(where)
        for name, values in self.metrics.items():
            if any(math.isnan(v) or v == -math.inf for v in values):
                raise OtcacheError(
                    expected(f"{where}: {name}", "NaN or -inf", "a number per sample")
                )

    def _check_times(self, where: str) -> None:
        """Check that times have spreads, and no speedup is above the ideal by more than its own."""
        ideal, measured, spread = self.ideal_speedup, self.measured_speedup, self.speedup_spread
        timed = [(measured, spread), (self.seconds, self.seconds_spread)]
        for figure in (ideal, *(value for value, _ in timed if value is not None)):
            if not (math.isfinite(figure) and figure > 0):
                what = f"{where}: speedup or seconds"
                raise OtcacheError(expected(what, figure, "finite and above 0"))
        for value, half in timed:
            known = half is not None and math.isfinite(half) and half >= 0
            if known != (value is not None) or (half is not None and not known):
                got = f"{value} and {half}"
                raise OtcacheError(expected(f"{where}: a time and its spread", got, "both or none"))
        if measured is not None and spread is not None and measured - spread > ideal * (1 + 1e-6):
            wanted = f"at most the ideal {ideal:.4g} within its spread of {spread:.4g}"
            raise OtcacheError(expected(f"{where}: measured_speedup", measured, wanted))


@dataclass(frozen=True)
class Missing:
    """What is not in the table.

    Args:
        method: name of the row, or ``metric NAME`` of a column.
        budget: B; None of a column, and if the method could not be run at all.
        reason: why, in words.
    """

    method: str
    budget: int | None
    reason: str


@dataclass(frozen=True)
class Results:
    """Methods beside each other on the same samples.

    Args:
        title: what was compared.
        num_steps: N of the full run.
        labels: (prompt, seed, tag) of each sample.
        cells: one for each method and budget.
        provenance: model, scheduler, prompts digest, versions; plain data.
        command: the command line that makes these figures again.
        stage_nfe: network evaluations that otcache's calibration took, by stage.
        sources: method to its project, version and rule.
        calibration_nfe: method to the network evaluations that its own calibration took; 0 for none.
            What came calibrated is omitted.
        missing: what could not be run, and why.
        full: what the full run itself gets from metrics that do not compare with it, as a distance
            to data: one number, the mean over samples if there is one per sample.
        full_metrics: those that have one value per sample.
        higher_is_better: metric to its direction, as the metric itself says; reports take one that is
            neither here nor known to them for a distance.
        frames_per_second: at which videos play; 0 if images were made.

    Raises:
        OtcacheError: if there is no cell, a pair of method and budget is given twice, a metric has
            another number of values than there are samples, or the frame rate is negative or not finite.
    """

    title: str
    num_steps: int
    labels: tuple[Label, ...]
    cells: tuple[Cell, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    stage_nfe: dict[str, int] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    calibration_nfe: dict[str, int] = field(default_factory=dict)
    missing: tuple[Missing, ...] = ()
    full: dict[str, float] = field(default_factory=dict)
    full_metrics: dict[str, tuple[float, ...]] = field(default_factory=dict)
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    frames_per_second: float = 0.0

    def __post_init__(self) -> None:
        rate = self.frames_per_second
        if not (math.isfinite(rate) and rate >= 0):
            raise OtcacheError(expected("frames_per_second", rate, "a finite number of at least 0"))
        if not self.cells or not self.labels:
            raise OtcacheError("results must hold at least one cell and one sample, got none.")
        check_num_steps(self.num_steps)
        if len(self.cells) > MAX_CELLS:
            raise OtcacheError(expected("cells", len(self.cells), f"at most {MAX_CELLS}"))
        keys = Counter((cell.method, cell.budget) for cell in self.cells)
        ((key, count),) = keys.most_common(1)
        if count > 1:
            raise OtcacheError(expected("cells", key, "each (method, budget) once"))
        for cell in self.cells:
            check_computed(f"{cell.method} at budget {cell.budget}", cell.schedule, self.num_steps)
        self._check_figures()

    def _check_figures(self) -> None:
        """Check that figures are finite, and that there is one for each sample."""
        for name, figure in {**self.full, **self.calibration_nfe, **self.stage_nfe}.items():
            if not math.isfinite(figure):
                raise OtcacheError(expected(name, figure, "finite"))
        where = {f"{cell.method} at budget {cell.budget}": cell.metrics for cell in self.cells}
        for place, metrics in {**where, "full run": self.full_metrics}.items():
            for name, values in metrics.items():
                if len(values) != len(self.labels):
                    what = f"{place}: {name}"
                    wanted = f"one value for each of the {len(self.labels)} samples"
                    raise OtcacheError(expected(what, len(values), wanted))
                if any(math.isnan(value) for value in values):
                    raise OtcacheError(expected(f"{place}: {name}", "NaN", "a number per sample"))

    @cached_property
    def budgets(self) -> tuple[int, ...]:
        """Distinct budgets, increasing."""
        return tuple(sorted({cell.budget for cell in self.cells}))

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Distinct methods in the order of their first cell."""
        return tuple(dict.fromkeys(cell.method for cell in self.cells))

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Distinct metrics in the order of their first appearance."""
        return tuple(dict.fromkeys(name for cell in self.cells for name in cell.metrics))

    @cached_property
    def prompts(self) -> tuple[int, ...]:
        """Number of the prompt of each sample: samples of one prompt are not independent."""
        order = {text: i for i, text in enumerate(dict.fromkeys(p for p, _, _ in self.labels))}
        return tuple(order[prompt] for prompt, _, _ in self.labels)

    def at(self, budget: int) -> tuple[Cell, ...]:
        """Return the cells of one budget, in order."""
        return tuple(cell for cell in self.cells if cell.budget == budget)

    def cell(self, method: str, budget: int) -> Cell | None:
        """Return one cell, or None if this method was not run at this budget."""
        found = (c for c in self.cells if (c.method, c.budget) == (method, budget))
        return next(found, None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; an infinite PSNR becomes None."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        for cell in data["cells"]:
            cell["metrics"] = {k: tuple(map(_finite, v)) for k, v in cell["metrics"].items()}
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Results:
        """Make results of what :meth:`to_dict` gave.

        Raises:
            OtcacheError: if a field is unknown, missing or of another type, or values contradict each
                other.
        """
        try:
            return _unpack(msgspec.convert(data, _ResultsFile))
        except msgspec.ValidationError as error:
            raise OtcacheError(f"results: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write versioned JSON, atomically.

        Raises:
            FileError: if it cannot be written.
        """
        save_json(path, FORMAT, VERSION, msgspec.convert(self.to_dict(), _ResultsFile))

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read what :meth:`save` wrote.

        Raises:
            FileError: naming file, field, got and expected.
        """
        stored = load_json(path, FORMAT, VERSION, _ResultsFile)
        try:
            return _unpack(stored)
        except OtcacheError as error:
            raise bad_file(path, str(error)) from error


def check_computed(what: str, computed: tuple[int, ...] | None, num_steps: int) -> None:
    """Check that steps, if known, are some of 0 .. N-1 in their order.

    Raises:
        OtcacheError: if they are not.
    """
    steps = computed or ()
    if any(b <= a for a, b in pairwise((-1, *steps))) or (steps and steps[-1] >= num_steps):
        raise OtcacheError(
            expected(f"{what}: computed steps", steps, f"increasing, below {num_steps}")
        )


def _stored(kind: type, **changed: Any) -> Any:
    """Return a struct of the fields of a dataclass, all of them required and no others known."""
    hints = get_type_hints(kind) | changed
    names = [(field.name, hints[field.name]) for field in fields(kind)]
    return msgspec.defstruct(f"{kind.__name__}File", names, forbid_unknown_fields=True)


_CellFile = _stored(Cell, metrics=dict[str, tuple[float | None, ...]])
_ResultsFile = _stored(Results, cells=types.GenericAlias(tuple, (_CellFile, ...)))


def _unpack(stored: Any) -> Results:
    facts = msgspec.structs.asdict(stored)
    cells = []
    for packed in stored.cells:
        row = msgspec.structs.asdict(packed)
        row["metrics"] = {
            name: tuple(math.inf if v is None else v for v in values)
            for name, values in packed.metrics.items()
        }
        cells.append(Cell(**row))
    return Results(**{**facts, "cells": tuple(cells)})


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value


#: Method that the report is about.
OURS = "otcache"
#: The same without calibration, which is no other method.
UNCALIBRATED = "otcache, no calibration"
#: Names of this project's own methods, in the demos and in ``otcache compare``.
OWN = frozenset({OURS, UNCALIBRATED, "otcache-uncalibrated"})


@dataclass(frozen=True)
class Scale:
    """A metric as tables and plots print it.

    Args:
        label: column head.
        higher_is_better: direction.
        digits: digits after the point.
        meaning: one line for the report's reader.
    """

    label: str
    higher_is_better: bool = False
    digits: int = 4
    meaning: str = ""

    @property
    def arrow(self) -> str:
        """Which way is better."""
        return "↑" if self.higher_is_better else "↓"

    @property
    def head(self) -> str:
        """Label and direction."""
        return f"{self.label} {self.arrow}"

    def badness(self, value: float) -> float:
        """Return the value, negated if higher is better: greater is worse."""
        return -value if self.higher_is_better else value

    def write(self, value: float) -> str:
        """Write one figure; without the leading zero of fractions, as ``.0412``."""
        if math.isinf(value):
            return "∞"
        text = f"{value:.{self.digits}f}"
        return text[1:] if text.startswith("0.") else text

    def write_signed(self, value: float) -> str:
        """Write one difference, as ``-.0125``."""
        return ("-" if value < 0 else "+") + self.write(abs(value))


_KNOWN = {
    "rmse": Scale("RMSE", meaning="root mean square error of images in [0, 1]"),
    "psnr": Scale("PSNR", True, 2, "peak signal-to-noise ratio, decibels"),
    "ssim": Scale("SSIM", True, 4, "structural similarity, 1 is identical"),
    "ms-ssim": Scale("MS-SSIM", True, 4, "structural similarity over several scales"),
    "lpips": Scale("LPIPS", False, 4, "learned perceptual distance, AlexNet"),
    "lpips-vgg": Scale("LPIPS (VGG)", False, 4, "learned perceptual distance, VGG16"),
    "haarpsi": Scale("HaarPSI", True, 4, "perceptual similarity by Haar wavelets, 1 is identical"),
    "flicker": Scale("flicker", False, 4, "RMSE of the changes from frame to frame, 0 is the full run's"),
    "temporal-lpips": Scale(
        "tLP", False, 4, "error of the perceptual change from frame to frame, LPIPS"
    ),
    "warping-error": Scale(
        "warping error", False, 4, "error along the full run's motion, less the full run's own"
    ),
    "motion-magnitude": Scale(
        "motion", False, 3, "logarithm of the ratio of motion to the full run's, 0.69 is half or double"
    ),
    "subject-consistency": Scale(
        "subject", False, 4, "how far the subject's consistency over time is from the full run's"
    ),
    "latent-rmse": Scale(
        "latent RMSE", False, 4, "root mean square error of the sampler's last states"
    ),
    "ode-rmse": Scale(
        "ODE RMSE", False, 4, "RMSE against a run of many steps that represents the ODE's solution"
    ),
    "legible": Scale(
        "legible", True, 3, "share of images in which a classifier reads what it reads in the full run's"
    ),
    "clip-score": Scale("CLIPScore", True, 2, "agreement of image and prompt under CLIP"),
    "image-reward": Scale("ImageReward", True, 3, "preference learned from people"),
    "frechet": Scale("Fréchet", False, 2, "distance of all images together to real ones"),
}  # fmt: skip


def scale_of(results: Results, metric: str) -> Scale:
    """Return the scale of a metric, whose direction is what the results say of it."""
    scale = _KNOWN.get(metric, Scale(metric))
    higher = results.higher_is_better.get(metric, scale.higher_is_better)
    return scale if higher == scale.higher_is_better else replace(scale, higher_is_better=higher)
