"""Everything a calibration measured, from which policies are planned without the pipeline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import FileError, OtcacheError, expected
from otcache_core.problem import check_costs
from otcache_core.schedule import Schedule
from otcache_core.storage.array_files import array, load_arrays, save_arrays
from otcache_core.storage.files import bad_file, make_folder
from otcache_core.storage.json_files import load_json, save_json

FORMAT, VERSION = "otcache-calibration", 4
FACTS, ARRAYS = "calibration.json", "calibration.safetensors"
#: Fields whose array has another name in the file.
_IN_FILE = {"output_weights": "impulses"}


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The error of one candidate of a rung on the calibration samples.

    Args:
        error: geometric mean over samples; >= 0. That of a candidate measured on a part of them is
            scaled by the ratio of the fitted schedule's errors on all samples and on that part, so that the
            candidates of a rung compare. None if the run diverged (NaN or infinity).
        samples: number of samples it was measured on, at least 1.

    Raises:
        OtcacheError: if a number is out of range.
    """

    error: float | None
    samples: int

    def __post_init__(self) -> None:
        if self.error is not None and not 0 <= self.error < math.inf:
            raise OtcacheError(expected("candidate error", self.error, "a finite number >= 0"))
        if self.samples < 1:
            raise OtcacheError(expected("candidate samples", self.samples, "at least 1"))


class Rung(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The best schedule known of one budget, and the candidates that it was compared with.

    Args:
        schedule: with its fitted weights, if a fitted one was best.
        error: its mean error by the calibration's fidelity; >= 0.
        winner: its name among the candidates; "" if there was nothing to compare.
        candidates: what was measured at this budget, by name: fitted schedules (``quantile``,
            ``second-order``, ...) and baselines (``uniform, reuse``, ...). Missing ones were
            not measured.
        errors: of the schedule by every metric that was measured, one a sample, cross-validated where weights
            are fitted; a refined schedule has those before.

    Raises:
        OtcacheError: if the error is negative, infinite or NaN, or the winner is not a candidate.
    """

    schedule: Schedule
    error: float
    winner: str = ""
    candidates: dict[str, Candidate] = {}
    errors: dict[str, tuple[float | None, ...]] = {}

    def __post_init__(self) -> None:
        if not 0 <= self.error < math.inf:
            raise OtcacheError(expected("rung error", self.error, "a finite number >= 0"))
        if self.winner and self.winner not in self.candidates:
            wanted = f"one of its candidates: {', '.join(self.candidates) or 'there are none'}"
            raise OtcacheError(expected("rung winner", self.winner, wanted))


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was measured on a pipeline, once.

    Args:
        provenance: facts about the pipeline; keys of :class:`~otcache_core.policy.Provenance`
            but for ``grid``.
        num_steps: N.
        grid: s_0 .. s_N, shape (N + 1,).
        samples: one label per calibration sample.
        gram: H[a, b] = E <v_a, v_b> of the full runs' outputs, mean over elements, then samples;
            shape (N, N).
        span_costs: w(i -> j), shape (N, N + 1); see :class:`~otcache_core.problem.ScheduleProblem`.
        anchor: schedule at the extreme budget.
        reference: schedule at the conservative budget.
        ladder: one rung per budget, lowest first, each with the table of its candidates.
        nfe: stage to denoiser evaluations spent there, a sample and step being one.
        span_costs_nfe: evaluations that ``span_costs`` cost.
        span_costs_samples: samples that ``span_costs`` are a mean over.
        fidelity: name of the error by which rungs were chosen, as ``rmse``.
        output_weights: R_t, what the output of step t moves the result by, all other outputs held
            (:meth:`~otcache_core.recurrence.Recurrence.output_weights`), shape (N,); None if the
            sampler is not linear.
        interpolation: the solver that chooses the steps between rungs; ``quantile`` is a policy's own
            interpolation.
        between: schedules between rungs by another solver, lowest budget first.
        anchored: whether an anchor was searched; else anchor and reference are the outer rungs, and of what
            lies beyond them nothing is known.

    Raises:
        OtcacheError: if a shape or step count is wrong, or a value is NaN.
    """

    provenance: dict[str, Any]
    num_steps: int
    grid: NDArray[np.float64]
    samples: tuple[str, ...]
    gram: NDArray[np.float64]
    span_costs: NDArray[np.float64]
    anchor: Schedule
    reference: Schedule
    ladder: tuple[Rung, ...]
    nfe: Mapping[str, int]
    span_costs_nfe: int = 0
    span_costs_samples: int = 0
    fidelity: str = ""
    output_weights: NDArray[np.float64] | None = None
    interpolation: str = "quantile"
    between: tuple[Schedule, ...] = ()
    anchored: bool = True

    def __post_init__(self) -> None:
        n = self.num_steps
        for name, shape in _shapes(n).items():
            values = getattr(self, name)
            if values is None or name == "span_costs":
                continue
            if values.shape != shape:
                what = f"Calibration.{name}"
                raise OtcacheError(expected(what, values.shape, f"of shape {shape}"))
            if not np.isfinite(values).all():
                raise OtcacheError(f"Calibration.{name} holds NaN or infinity: calibrate again.")
        check_costs(self.span_costs, n)
        rungs = (rung.schedule for rung in self.ladder)
        for schedule in (self.anchor, self.reference, *rungs, *self.between):
            if schedule.num_steps != n:
                raise OtcacheError(expected("num_steps of a schedule", schedule.num_steps, str(n)))
        if not self.samples:
            raise OtcacheError(expected("Calibration.samples", self.samples, "at least one label"))
        if any(spent < 0 for spent in self.nfe.values()):
            raise OtcacheError(expected("Calibration.nfe", dict(self.nfe), "counts >= 0"))

    @property
    def full_runs(self) -> float:
        """The cost in full runs per sample: total NFE / (N * samples)."""
        return sum(self.nfe.values()) / (self.num_steps * len(self.samples))

    def save(self, directory: str | Path) -> None:
        """Write ``calibration.json`` and ``calibration.safetensors``, each whole or not at all.

        The first holds the digest of the second, so a crash between the two is found on loading.

        Raises:
            FileError: if a file cannot be written.
        """
        folder = make_folder(directory)
        arrays = {_IN_FILE.get(f, f): getattr(self, f) for f in _shapes(self.num_steps)}
        arrays = {name: values for name, values in arrays.items() if values is not None}
        digest = save_arrays(folder / ARRAYS, arrays)
        facts = {f: getattr(self, f) for f in _Facts.__struct_fields__ if f != "arrays_digest"}
        facts["nfe"] = dict(self.nfe)
        save_json(folder / FACTS, FORMAT, VERSION, _Facts(**facts, arrays_digest=digest))

    @classmethod
    def load(cls, directory: str | Path) -> Calibration:
        """Read what :meth:`save` wrote.

        Raises:
            FileError: if a file is missing, truncated, of another version, holds a bad value, or
                the two are not of one calibration.
        """
        if not isinstance(directory, (str, Path)):
            raise FileError(expected("directory", directory, "the folder of a calibration"))
        facts_path, arrays_path = Path(directory) / FACTS, Path(directory) / ARRAYS
        facts = load_json(facts_path, FORMAT, VERSION, _Facts)
        arrays, _ = load_arrays(arrays_path, digest=facts.arrays_digest)
        values: dict[str, Any] = {
            name: array(arrays_path, arrays, _IN_FILE.get(name, name), shape)
            for name, shape in _shapes(facts.num_steps).items()
            if name != "output_weights" or "impulses" in arrays
        }
        fields = {f: getattr(facts, f) for f in facts.__struct_fields__ if f != "arrays_digest"}
        try:
            return cls(**fields, **values)
        except OtcacheError as error:
            raise bad_file(facts_path, str(error)) from error


def _shapes(n: int) -> dict[str, tuple[int, ...]]:
    return {"grid": (n + 1,), "gram": (n, n), "output_weights": (n,), "span_costs": (n, n + 1)}


class _Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The JSON part of a calibration."""

    provenance: dict[str, Any]
    num_steps: int
    samples: tuple[str, ...]
    anchor: Schedule
    reference: Schedule
    ladder: tuple[Rung, ...]
    nfe: dict[str, int]
    span_costs_nfe: int
    span_costs_samples: int
    fidelity: str
    arrays_digest: str
    interpolation: str = "quantile"
    between: tuple[Schedule, ...] = ()
    anchored: bool = True
