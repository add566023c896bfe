"""What a calibration has evaluated: a line an evaluation, each with a digest of itself.

What a kill cut short is the last line, without its end: it is cut off with a notice and measured again.
Anything else that is not as it was written is damage, and is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from otcache_core import FileError, Schedule
from otcache_core.contracts import Evaluation
from otcache_core.errors import expected
from otcache_core.notices import notify
from otcache_core.storage.files import MAX_BYTES, bad_file, open_file, unreadable, unwritable
from otcache_core.storage.json_files import converted, parse_json

_DELETE_LINE = "Delete the line, and what it held is measured again."


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the log."""

    key: str
    schedules: tuple[Schedule, ...]
    errors: tuple[tuple[float, ...], ...]
    nfe: int
    grams: tuple[tuple[tuple[float, ...], ...], ...]
    digest: str

    def __post_init__(self) -> None:
        a = len(self.schedules)
        n = len(self.grams)
        shapes = {len(self.errors), *(len(gram) for gram in self.grams)} | {
            len(row) for gram in self.grams for row in gram
        }
        if shapes != {a} or any(len(row) != n for row in self.errors) or not a * n:
            got = f"{len(self.errors)} rows and {n} matrices"
            wanted = f"a row of errors for each of {a} schedules, and a matrix for each sample"
            raise ValueError(expected("errors and grams", got, wanted))

    @property
    def evaluation(self) -> Evaluation:
        """What was measured."""
        return Evaluation(self.schedules, np.array(self.errors), self.nfe, np.array(self.grams))


class EvaluationLog:
    """Evaluations by the digest of what was asked.

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


def _digest(data: dict[str, Any]) -> str:
    """Hash what a line says; JSON writes what it reads."""
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]
