"""What calibrations of a pipeline have finished so far, so that an interrupted one resumes to one result.

:class:`Store` is their folder: recorded samples, facts, and the log of evaluations. A line that a kill cut
short is cut off with a notice and measured again; anything else that is not as it was written is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from otcache_core import FileError, OtcacheError, Schedule, Trajectory
from otcache_core.calibration import ARRAYS, FACTS
from otcache_core.contracts import Evaluation
from otcache_core.errors import expected, shortened
from otcache_core.notices import notify
from otcache_core.samples import digest
from otcache_core.storage.array_files import load_arrays, map_arrays, save_arrays
from otcache_core.storage.files import (
    MAX_BYTES,
    bad_file,
    open_file,
    unreadable,
    unwritable,
    write_bytes,
)
from otcache_core.storage.json_files import converted, parse_json, read_json
from otcache_core.storage.recordings import MEMORY_BYTES, check_space, mapped

T = TypeVar("T")
_LOG, _RUN, _BATCHES = "evaluations.jsonl", "run", "batches.jsonl"
_DELETE = "Delete the file"
_DELETE_LINE = "Delete the line, and what it held is measured again."
_UNREADABLE = "an unreadable identity.json"
_REMEDY = "delete it if the folder is of this one, or choose another folder"


class Store:
    """A folder that remembers recorded samples and evaluations of one pipeline.

    Its ``log`` holds the evaluations. Samples are known by what they are of, and remembered a call of the
    pipeline at a time: one that was cut off is made again with the same samples in it.

    Args:
        directory: created if missing.
        identity: facts that must be the same for the stored work to be used again.
        overwrite: start over where the folder holds work of another pipeline.
        map_above: samples of more bytes than this are read through memory maps.

    Raises:
        OtcacheError: if the folder holds work of another pipeline.
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
        try:
            self._claim(digest(identity), overwrite)
        except OtcacheError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a name that no folder can have
            reason = getattr(error, "strerror", None) or str(error)
            text = f"cannot keep a calibration here: {reason}: name another folder."
            raise bad_file(directory, text) from error
        self.log = EvaluationLog(directory / _LOG)
        self._batch_of = dict(self._read_batches())

    def known(self, fact: str) -> bool:
        """Return whether :meth:`mark` was called for a fact."""
        return os.path.lexists(self._directory / _named(fact))

    def recall(self, fact: str, type: type[T]) -> T | None:
        """Return what :meth:`mark` wrote about a fact in JSON, None if it was not called.

        Raises:
            FileError: if it is no JSON, or that of another type.
        """
        path = self._directory / _named(fact)
        if not self.known(fact):
            return None
        try:
            return converted(path, read_json(path), type)
        except FileError as error:
            raise FileError(f"{error} {_DELETE}, and it is found out again.") from error

    def mark(self, fact: str, text: str = "") -> None:
        """Remember a fact about the work that is kept here."""
        write_bytes(self._directory / _named(fact), text.encode())

    def restart(self, fact: str) -> None:
        """Forget all samples and evaluations, since they have to be made anew; remember why.

        Raises:
            FileError: if they cannot be removed.
        """
        try:
            shutil.rmtree(self._samples)
            self._samples.mkdir()
            self._batch_of = {}
            self.log.forget()
        except OSError as error:
            raise unwritable(self._directory, error) from error
        self.mark(fact)

    def trajectory(self, key: str) -> Trajectory | None:
        """Return a recorded sample, or None if its batch was not finished.

        Raises:
            FileError: if the file is not as it was written.
        """
        path = self._sample(key)
        if key not in self._batch_of or not os.path.lexists(path):
            return None
        try:
            return _read_sample(path, self._map_above, sealed=True)
        except FileError as error:
            raise FileError(f"{error} {_DELETE}, and the sample is recorded again.") from error

    def batch_of(self, key: str) -> tuple[str, ...]:
        """Return the samples that were recorded in one call with a remembered one, itself among them."""
        return self._batch_of[key]

    def keep_batch(
        self, keys: Sequence[str], trajectories: Iterable[Trajectory]
    ) -> list[Trajectory]:
        """Remember the samples of one call, all or none; returns them as they are kept.

        Raises:
            FileError: if they cannot be written.
        """
        kept = [self._keep(key, made) for key, made in zip(keys, trajectories, strict=True)]
        try:
            with self._batches.open("a", encoding="utf-8") as log:
                log.write(json.dumps(list(keys)) + "\n")
                log.flush()
                os.fsync(log.fileno())
        except OSError as error:
            raise unwritable(self._batches, error) from error
        self._batch_of |= dict.fromkeys(keys, tuple(keys))
        return kept

    @property
    def _batches(self) -> Path:
        return self._samples / _BATCHES

    def _read_batches(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield each remembered sample with its batch; a line that a kill cut short is as if it were not."""
        if not os.path.lexists(self._batches):
            return
        with open_file(self._batches) as log:
            lines = log.read(MAX_BYTES).split(b"\n")
        if torn := lines.pop():
            os.truncate(self._batches, self._batches.stat().st_size - len(torn))
        for line in lines:
            keys = converted(self._batches, parse_json(self._batches, line), tuple[str, ...])
            yield from ((key, keys) for key in keys)

    def _keep(self, key: str, trajectory: Trajectory) -> Trajectory:
        path = self._sample(key)
        arrays = {name: getattr(trajectory, name) for name in ("grid", "states", "outputs")}
        if trajectory.call_weights is not None:
            arrays["gains"] = trajectory.call_weights
        known = {name: getattr(trajectory, name) for name in _Run.__struct_fields__}
        facts = {_RUN: msgspec.json.encode(_Run(**known)).decode()}
        if mapped(trajectory.states):
            check_space(self._samples, sum(array.nbytes for array in arrays.values()))
        save_arrays(path, arrays, facts)
        if not mapped(trajectory.states):
            return trajectory
        kept = _read_sample(path, self._map_above, sealed=False)
        return replace(kept, for_evaluator=trajectory.for_evaluator)

    def _sample(self, key: str) -> Path:
        return self._samples / f"{key}.safetensors"

    def _claim(self, identity: str, overwrite: bool) -> None:
        path = self._directory / "identity.json"
        owner = _owner(path) if os.path.lexists(path) else None
        if owner not in (None, identity):
            if owner == _UNREADABLE and not overwrite:
                raise bad_file(
                    path,
                    f"is damaged, so it is not known which pipeline the folder is of: {_REMEDY}.",
                )
            if not overwrite:
                raise OtcacheError(
                    f"{self._directory}: holds calibrations of another pipeline (other weights, steps, "
                    f"arguments or versions), got {owner}, expected {identity}: choose another folder or "
                    "delete this one."
                )
            if self._samples.exists():
                shutil.rmtree(self._samples)
            for stale in (_LOG, FACTS, ARRAYS):
                (self._directory / stale).unlink(missing_ok=True)
            for mark in self._directory.glob(_named("*")):
                mark.unlink()
        self._samples.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps({"calibration": identity}).encode())


def _owner(path: Path) -> str:
    """Return the identity of the calibration that a folder holds."""
    try:
        return shortened(converted(path, read_json(path), dict[str, str])["calibration"], 100)
    except (FileError, KeyError):
        return _UNREADABLE


class _Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Facts of a recorded sample."""

    calls: dict[str, int]
    label: str
    rounding: float
    sketch_of: int
    unexplained: str


def _read_sample(path: Path, map_above: int, *, sealed: bool) -> Trajectory:
    try:
        large = path.stat().st_size > map_above
    except OSError as error:
        raise unreadable(path, error) from error
    arrays, facts = (map_arrays if large else load_arrays)(path, sealed=sealed)
    missing = sorted({"grid", "states", "outputs"} - set(arrays))
    if missing or _RUN not in facts:
        got = f"{', '.join(sorted(arrays))} and facts {', '.join(facts)}"
        raise bad_file(path, expected("arrays", got, "grid, states and outputs and facts run"))
    run = converted(path, parse_json(path, facts[_RUN].encode()), _Run)
    fields: dict[str, Any] = {name: arrays[name] for name in ("grid", "states", "outputs")}
    fields["call_weights"] = arrays.get("gains")
    try:
        return Trajectory(**fields, **msgspec.structs.asdict(run))
    except OtcacheError as error:
        raise bad_file(path, str(error)) from error


def _named(fact: str) -> str:
    return f"{fact.replace(' ', '-')}.mark"


class EvaluationLog:
    """Evaluations, by the digest of their arguments.

    Args:
        path: the file; made with the first evaluation.

    Raises:
        FileError: if it cannot be read, or a line is not as it was written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Evaluation] = dict(self._read()) if os.path.lexists(path) else {}

    def get(self, key: str) -> Evaluation | None:
        """Return a remembered evaluation."""
        return self._known.get(key)

    def keep(self, key: str, evaluation: Evaluation) -> None:
        """Remember an evaluation; what is on the disk afterwards survives a kill.

        Raises:
            FileError: if it cannot be written.
        """
        data = {
            "key": key,
            "schedules": [s.to_dict() for s in evaluation.schedules],
            "errors": evaluation.errors.tolist(),
            "others": {name: found.tolist() for name, found in evaluation.others.items()},
            "nfe": int(evaluation.nfe),
            "grams": evaluation.grams.tolist(),
        }
        line = json.dumps({**data, "digest": _digest(data)}) + "\n"
        try:
            with self._path.open("ab") as log:
                log.write(line.encode())
                log.flush()
                os.fsync(log.fileno())
        except OSError as error:
            raise unwritable(self._path, error) from error
        self._known[key] = evaluation

    def forget(self) -> None:
        """Forget everything."""
        self._path.unlink(missing_ok=True)
        self._known = {}

    def _read(self) -> Iterator[tuple[str, Evaluation]]:
        """Read what is whole, and cut off what is not, so that the next line starts a line."""
        whole, number = 0, 0
        with open_file(self._path) as log:
            try:
                while line := log.readline(MAX_BYTES):
                    number += 1
                    if not line.endswith(b"\n") and len(line) < MAX_BYTES:
                        break
                    whole += len(line)
                    yield self._entry(number, line)
                torn = bool(line)
            except (OSError, MemoryError) as error:
                raise unreadable(self._path, error) from error
        if torn:
            self._cut(whole, number)

    def _entry(self, number: int, line: bytes) -> tuple[str, Evaluation]:
        where = f"{self._path}, line {number}"
        try:
            data = parse_json(where, line, finite=False)
            entry = converted(where, data, _Entry)
            del data["digest"]
            if _digest(data) != entry.digest:
                raise bad_file(where, expected("digest", _digest(data), entry.digest))
        except FileError as error:
            raise FileError(f"{error} {_DELETE_LINE}") from error
        return entry.key, entry.evaluation

    def _cut(self, whole: int, number: int) -> None:
        try:
            os.truncate(self._path, whole)
        except OSError as error:
            raise unwritable(self._path, error) from error
        notify(
            f"{self._path}, line {number}: was cut short, as by a kill: what it held is measured again."
        )


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the log."""

    key: str
    schedules: tuple[Schedule, ...]
    errors: tuple[tuple[float, ...], ...]
    others: dict[str, tuple[tuple[float, ...], ...]]
    nfe: int
    grams: tuple[tuple[tuple[float, ...], ...], ...]
    digest: str

    def __post_init__(self) -> None:
        a = len(self.schedules)
        n = len(self.grams)
        shapes = {len(self.errors), *(len(gram) for gram in self.grams)} | {
            len(row) for gram in self.grams for row in gram
        }
        measured = (self.errors, *self.others.values())
        rows = [row for found in measured for row in found]
        shapes |= {len(found) for found in measured}
        if shapes != {a} or any(len(row) != n for row in rows) or not a * n:
            got = f"{len(self.errors)} rows and {n} matrices"
            wanted = f"a row of errors for each of {a} schedules, and a matrix for each sample"
            raise ValueError(expected("errors and grams", got, wanted))

    @property
    def evaluation(self) -> Evaluation:
        """What was measured."""
        others = {name: np.array(found) for name, found in self.others.items()}
        return Evaluation(
            self.schedules, np.array(self.errors), self.nfe, np.array(self.grams), (), others
        )


def _digest(data: dict[str, Any]) -> str:
    """Hash what a line says; JSON writes what it reads."""
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]
