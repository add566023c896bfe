"""What a calibration has finished so far, so that an interrupted one resumes to the same result."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache_core import FileError, OtcacheError, Schedule, Trajectory
from otcache_core.array_files import load_arrays, map_arrays, save_arrays
from otcache_core.contracts import Drift, Evaluation, Evaluator
from otcache_core.files import write_bytes
from otcache_core.keep import MEMORY_BYTES
from otcache_core.slabs import mapped
from otcache_core.spill import check_space

_FIELDS = ("schedules", "errors", "nfe", "grams")


def digest(data: Any) -> str:
    """A short stable hash of plain data."""
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """A folder that remembers recorded samples and evaluations of one calibration.

    Args:
        directory: created if missing.
        identity: facts that must be the same for the stored work to be used again.
        overwrite: start over where the folder holds work of another calibration.
        map_above: samples of more bytes than this are read through memory maps.

    Raises:
        OtcacheError: if the folder holds work of another calibration.
    """

    def __init__(
        self,
        directory: Path,
        identity: dict[str, Any],
        *,
        overwrite: bool = False,
        map_above: int = MEMORY_BYTES,
    ) -> None:
        self._directory, self._map_above = directory, map_above
        self._samples = directory / "samples"
        self._log = directory / "evaluations.jsonl"
        try:
            self._claim(digest(identity), overwrite)
            self._known = self._read_log()
        except OSError as error:
            raise FileError(
                f"{directory}: cannot keep a calibration here: {error.strerror}"
            ) from error

    def known(self, fact: str) -> str | None:
        """Return what :meth:`mark` said of a fact, None if it was not called."""
        path = self._directory / _named(fact)
        return path.read_text(encoding="utf-8") if path.exists() else None

    def mark(self, fact: str, text: str = "") -> None:
        """Remember a fact about the work that is kept here."""
        write_bytes(self._directory / _named(fact), text.encode())

    def restart(self, fact: str) -> None:
        """Forget all samples and evaluations, since they have to be made anew; remember why."""
        shutil.rmtree(self._samples)
        self._log.unlink(missing_ok=True)
        self._samples.mkdir()
        self._known = {}
        self.mark(fact)

    def trajectory(self, index: int) -> Trajectory | None:
        """The recorded sample, or None if it was not finished."""
        path = self._samples / f"{index:04d}.safetensors"
        if not path.exists():
            return None
        large = path.stat().st_size > self._map_above
        arrays, facts = (map_arrays if large else load_arrays)(path)
        missing = {"grid", "states", "outputs"} - set(arrays)
        if missing:
            raise FileError(f"{path}: arrays must be grid, states and outputs, lacks {missing}.")
        calls = {name: int(n) for name, n in json.loads(facts.get("calls", "{}")).items()}
        return Trajectory(
            arrays["grid"],
            arrays["states"],
            arrays["outputs"],
            calls,
            facts.get("label", ""),
            float(facts.get("rounding", "6e-8")),
            int(facts.get("sketch_of", "0")),
            arrays.get("gains"),
            facts.get("unexplained", ""),
        )

    def keep_trajectory(self, index: int, trajectory: Trajectory) -> Trajectory:
        """Remember a recorded sample; returns it as it is kept, where it is not in memory.

        Raises:
            FileError: if it cannot be written.
        """
        path = self._samples / f"{index:04d}.safetensors"
        arrays = {name: getattr(trajectory, name) for name in ("grid", "states", "outputs")}
        if trajectory.gains is not None:
            arrays["gains"] = trajectory.gains
        facts = {
            "unexplained": trajectory.unexplained,
            "label": trajectory.label,
            "calls": json.dumps(trajectory.calls),
            "rounding": repr(trajectory.rounding),
            "sketch_of": str(trajectory.sketch_of),
        }
        if not mapped(trajectory.states):
            save_arrays(path, arrays, facts)
            return trajectory
        check_space(self._samples, sum(array.nbytes for array in arrays.values()))
        save_arrays(path, arrays, facts)
        return self.trajectory(index) or trajectory

    def evaluation(self, key: str) -> Evaluation | None:
        """A remembered evaluation."""
        data = self._known.get(key)
        if data is None:
            return None
        schedules = tuple(msgspec.convert(s, Schedule) for s in data["schedules"])
        errors, grams = np.array(data["errors"]), np.array(data["grams"])
        return Evaluation(schedules, errors, data["nfe"], grams)

    def keep_evaluation(self, key: str, evaluation: Evaluation) -> None:
        """Remember an evaluation; what is on the disk afterwards survives a kill."""
        data = {
            "schedules": [s.to_dict() for s in evaluation.schedules],
            "errors": evaluation.errors.tolist(),
            "nfe": evaluation.nfe,
            "grams": evaluation.grams.tolist(),
        }
        self._known[key] = data
        try:
            with self._log.open("a", encoding="utf-8") as log:
                log.write(json.dumps({"key": key, **data}) + "\n")
                log.flush()
                os.fsync(log.fileno())
        except OSError as error:
            raise FileError(f"{self._log}: cannot be written: {error.strerror}") from error

    def _claim(self, identity: str, overwrite: bool) -> None:
        path = self._directory / "identity.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["calibration"]
        except FileNotFoundError:
            found = None
        except (ValueError, KeyError, TypeError):
            found = "an unreadable identity.json"
        if found not in (None, identity):
            if not overwrite:
                raise OtcacheError(
                    f"{self._directory}: holds another calibration (other weights, prompts, seeds, "
                    f"steps, versions or settings), got {found}, expected {identity}: choose another "
                    "folder or delete this one."
                )
            shutil.rmtree(self._samples)
            self._log.unlink(missing_ok=True)
            for mark in self._directory.glob(_named("*")):
                mark.unlink()
        self._samples.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps({"calibration": identity}).encode())

    def _read_log(self) -> dict[str, Any]:
        """What is whole; what a kill cut short is cut off, so that the next line starts a line."""
        if not self._log.exists():
            return {}
        whole = self._log.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        with self._log.open("r+b") as log:
            log.truncate(len(whole))
        known = {}
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
                known[str(entry["key"])] = {name: entry[name] for name in _FIELDS}
            except (ValueError, KeyError, TypeError):
                continue  # not written by this class; it is measured again
        return known


def _named(fact: str) -> str:
    return f"{fact.replace(' ', '-')}.mark"


class StoredEvaluator(Evaluator):
    """An evaluator that asks the store first and builds the real one only when it must.

    Args:
        build: makes the real evaluator.
        store: None keeps nothing.
        spent: called with the NFE of every evaluation, remembered or not.
        check: called once with the real one before it is asked for anything new.
    """

    def __init__(
        self,
        build: Callable[[], Evaluator],
        store: Store | None,
        spent: Callable[[int], None],
        check: Callable[[Evaluator], None] = lambda real: None,
    ) -> None:
        self._build, self._store, self._spent = build, store, spent
        self._real: Evaluator | None = None
        self._check: Callable[[Evaluator], None] | None = check

    @property
    def real(self) -> Evaluator:
        """The evaluator behind this one."""
        self._real = self._real or self._build()
        return self._real

    @property
    def _checked(self) -> Evaluator:
        check, self._check = self._check, None
        if check:
            check(self.real)
        return self.real

    @property
    def grid(self) -> NDArray[np.float64]:
        return self.real.grid

    @property
    def num_samples(self) -> int:
        return self.real.num_samples

    @property
    def objectives(self) -> tuple[str, ...]:
        return self.real.objectives

    @property
    def largest_batch(self) -> int:
        return self.real.largest_batch

    def replay(self, samples: Sequence[int]) -> NDArray[np.float64]:
        return self.real.replay(samples)

    def evaluate(
        self,
        schedules: Sequence[Schedule],
        *,
        objective: str | None = None,
        samples: Sequence[int] | None = None,
        fit: bool = False,
    ) -> Evaluation:
        chosen = None if samples is None else list(samples)
        key = digest([[s.to_dict() for s in schedules], objective, chosen, fit])
        found = self._store.evaluation(key) if self._store else None
        if found is None:
            found = self._checked.evaluate(schedules, objective=objective, samples=samples, fit=fit)
            if self._store:
                self._store.keep_evaluation(key, found)
        self._spent(found.nfe)
        return found

    def drift(
        self, schedules: Sequence[Schedule], *, samples: Sequence[int] | None = None
    ) -> Drift:
        """Always measured: no stage of a calibration asks for it."""
        found = self._checked.drift(schedules, samples=samples)
        self._spent(found.nfe)
        return found
