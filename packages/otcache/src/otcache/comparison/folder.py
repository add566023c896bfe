"""The folder of a comparison: finished work is kept there, whole or not at all; processes may share it."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from otcache.comparison.job import FORMAT, VERSION, Job
from otcache.comparison.timing import Pair
from otcache.report.results import FULL, Missing, check_computed
from otcache_core import FileError, OtcacheError
from otcache_core.errors import expected
from otcache_core.schedule import check_num_steps
from otcache_core.storage.array_files import load_arrays, save_arrays
from otcache_core.storage.files import bad_file, make_folder
from otcache_core.storage.json_files import load_json, save_json

#: Label of the many-step run that represents the ODE's solution, kept beside the full runs.
SOLUTION = "solution"
#: The calibration that all solvers plan from is kept as a method of this name; no plugin's has spaces.
CALIBRATION = "calibration of solvers"
#: Name of the file that is locked, and seconds between looks at whether it is free.
LOCK, LOOK = "lock", 0.2
#: Folders of what methods, and the comparison itself, have finished.
WORK, OWN = "work", "own"
#: Names that are file names as they are; of others, so many characters, and digits of a digest.
PLAIN, LENGTH, DIGITS = re.compile(r"[a-z0-9][a-z0-9.-]{0,59}"), 60, 12
#: Evaluations of a run, at least: a method may skip nearly all of each.
MIN_NFE = 1e-6
Floats = NDArray[np.floating]


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One setting of one method, over all samples.

    Args:
        label: of the setting.
        num_steps: the pipeline was called with.
        computed: steps computed, if the method knows them beforehand.
        nfe: evaluations of one sample: whole ones that cost as many multiply-adds.
        flops: of one sample; None if not counted.
        peak_bytes: tensors alive at once while one sample was made; None if not counted.
        pairs: seconds of a plain full run and of one under this setting, taken in turns; none of the
            full run itself and of the many-step solution.

    Raises:
        OtcacheError: if a number is out of range.
    """

    label: str
    num_steps: int
    computed: tuple[int, ...] | None
    nfe: float
    flops: float | None
    peak_bytes: int | None
    pairs: tuple[Pair, ...] = ()

    def __post_init__(self) -> None:
        check_num_steps(self.num_steps)
        check_computed(self.label, self.computed, self.num_steps)
        for name, low in (("nfe", MIN_NFE), ("flops", 0), ("peak_bytes", 0)):
            value = getattr(self, name)
            if value is not None and not low <= value < math.inf:
                wanted = f"a finite number of at least {low}"
                raise OtcacheError(expected(name, value, wanted))


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a method runs: (budget, label of a setting), and why other budgets are missing.

    ``calibration_nfe`` is None if it came calibrated.

    Raises:
        OtcacheError: if a budget is below 1, or given twice.
    """

    source: str
    calibration_nfe: int | None
    labels: tuple[tuple[int, str], ...]
    missing: tuple[Missing, ...] = ()

    def __post_init__(self) -> None:
        budgets = [budget for budget, _ in self.labels]
        if len(set(budgets)) < len(budgets) or min(budgets, default=1) < 1:
            raise OtcacheError(expected("budgets", budgets, "distinct, and at least 1"))

    @property
    def distinct(self) -> list[str]:
        """Labels, each once."""
        return list(dict.fromkeys(label for _, label in self.labels))


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a comparison shows: who joins its shards reads it.

    Args:
        methods: all of them, in the order of the table.
        metrics: that were asked for; none: the usual ones.
        command: the command line.
        shared: whether it is made in shares, so that a report is of what was finished then.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    command: str = ""
    shared: bool = False


class _Facts(msgspec.Struct, forbid_unknown_fields=True):
    facts: dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """Keeps a comparison.

    Args:
        path: made if missing.
        memory: arrays of a comparison in one process are kept here and not in files; None: in files.
    """

    path: Path
    memory: dict[Path, dict[str, Floats]] | None = None

    @property
    def job(self) -> Job:
        """The job that is compared.

        Raises:
            FileError: if there is none, or it is of another version.
        """
        return load_json(self.path / "job.json", FORMAT, VERSION, Job)

    def begin(self, job: Job, *, overwrite: bool) -> None:
        """Write the job, or go on with the same one.

        Raises:
            FileError: if the folder holds something else, unless it may be overwritten.
        """
        if not (self.path / LOCK).exists() and not overwrite:
            self._check(job)  # nothing is left in a folder of something else
        with locked(self.path):
            try:
                if not self._check(job, overwrite=overwrite):
                    self._empty()
            except OSError as error:
                raise FileError(f"{self.path}: cannot be emptied: {error.strerror}.") from error
            save_json(self.path / "job.json", FORMAT, VERSION, job)

    def _check(self, job: Job, *, overwrite: bool = False) -> bool:
        """Return whether the folder is new or of this job, and is to stay as it is."""
        others = self.path.is_dir() and any(one.name != LOCK for one in self.path.iterdir())
        if not others or (self.holds(job) and not overwrite):
            return True
        if not overwrite:
            raise FileError(
                f"{self.path}: holds another comparison, one of other versions, or other files: "
                "name a new folder, or give --force to replace the comparison in it."
            )
        return False

    def _empty(self) -> None:
        """Remove what is finished, unless a process is at a method."""
        parts = [part for part in (self.path / WORK, self.path / OWN) if part.exists()]
        with ExitStack() as stack:
            for method in (one for part in parts for one in part.iterdir() if one.is_dir()):
                if not stack.enter_context(locked(method, lambda: False)):
                    raise FileError(f"{self.path}: another process works in it, at {method.name}.")
            for part in parts:
                shutil.rmtree(part)

    @property
    def plan(self) -> Plan | None:
        """What the latest command here compares; None if there was none."""
        path = self.path / "plan.json"
        return load_json(path, FORMAT, VERSION, Plan) if os.path.lexists(path) else None

    def keep_plan(self, plan: Plan) -> None:
        """Write what is compared."""
        save_json(self.path / "plan.json", FORMAT, VERSION, plan)

    def holds(self, job: Job) -> bool:
        """Return whether it is this job that is compared here."""
        try:
            return self.job == msgspec.convert(msgspec.to_builtins(job), Job)
        except FileError:
            return False

    @property
    def calibration(self) -> Path:
        """Folder of the calibration that solvers plan from."""
        return self.path / WORK / CALIBRATION

    def of(self, method: str) -> MethodFolder:
        """Return the part of one method; made if missing."""
        path = self.path / (OWN if method == FULL else WORK) / slug(method)
        make_folder(path)
        return MethodFolder(path, self.memory)


@dataclass(frozen=True)
class MethodFolder:
    """Keeps what one method has finished."""

    path: Path
    memory: dict[Path, dict[str, Floats]] | None = None

    @property
    def log(self) -> Path:
        """File of what its processes printed."""
        return self.path / "log.txt"

    def measured(self) -> dict[str, Any] | None:
        """Return what it calibrated; None if it has not yet."""
        return self._facts("measured")

    def keep_measured(self, facts: dict[str, Any]) -> None:
        """Write what it calibrated."""
        self._keep("measured", facts)

    def assignment(self) -> Assignment | None:
        """Return what it will run; None if that is not known yet."""
        path = self.path / "assignment.json"
        return load_json(path, FORMAT, VERSION, Assignment) if os.path.lexists(path) else None

    def keep_assignment(self, assigned: Assignment) -> None:
        """Write what it will run."""
        save_json(self.path / "assignment.json", FORMAT, VERSION, assigned)

    def evaluations(self) -> dict[str, float]:
        """Return label of a setting to its evaluations on calibration samples, as far as counted."""
        return {str(k): float(v) for k, v in (self._facts("evaluations") or {}).items()}

    def keep_evaluations(self, label: str, nfe: float) -> None:
        """Write how many evaluations a setting takes."""
        self._keep("evaluations", {**self.evaluations(), label: nfe})

    def failures(self) -> dict[str, str]:
        """Return label of a setting, "" for the whole method, to what went wrong."""
        return {str(k): str(v) for k, v in (self._facts("failures") or {}).items()}

    def keep_failure(self, label: str, reason: str) -> None:
        """Write that a setting will not be tried again."""
        self._keep("failures", {**self.failures(), label: reason})

    def forget_failures(self) -> None:
        """Let what failed be tried again."""
        (self.path / "failures.json").unlink(missing_ok=True)

    def run(self, label: str) -> Run | None:
        """Return a finished setting; None if it is not finished."""
        path = self._run_path(label, "json")
        return load_json(path, FORMAT, VERSION, Run) if os.path.lexists(path) else None

    def keep_run(self, run: Run, images: Floats, states: Floats | None) -> None:
        """Write a finished setting: arrays first, so that there are no facts without them."""
        arrays = {"images": np.asarray(images, dtype=np.float32)}
        if states is not None:
            arrays["states"] = np.asarray(states, dtype=np.float32)
        path = self._run_path(run.label, "safetensors")
        if self.memory is not None:
            self.memory[path] = arrays
        else:
            make_folder(self.path)
            save_arrays(path, arrays)
        save_json(self._run_path(run.label, "json"), FORMAT, VERSION, run)

    def arrays(self, label: str) -> dict[str, Floats]:
        """Return ``images`` and, if they are known, ``states`` of a finished setting.

        Raises:
            FileError: if the file is not as it was written.
        """
        path = self._run_path(label, "safetensors")
        if self.memory is not None:
            return self.memory[path]
        arrays, _ = load_arrays(path, sealed=True)
        images = arrays.get("images")
        if images is None or images.ndim not in (4, 5) or images.shape[-1] != 3 or images.size == 0:
            got = {name: each.shape for name, each in arrays.items()}
            raise bad_file(path, expected("images", got, "images or videos of three colours"))
        return arrays

    def _run_path(self, label: str, suffix: str) -> Path:
        return self.path / f"run-{slug(label)}.{suffix}"

    def _keep(self, name: str, facts: dict[str, Any]) -> None:
        save_json(self.path / f"{name}.json", FORMAT, VERSION, _Facts(facts))

    def _facts(self, name: str) -> dict[str, Any] | None:
        path = self.path / f"{name}.json"
        return load_json(path, FORMAT, VERSION, _Facts).facts if os.path.lexists(path) else None


@contextmanager
def locked(path: Path, wait: Callable[[], bool] = lambda: True) -> Iterator[bool]:
    """Hold the lock of a folder, made if missing; it ends when its process does. NFS carries it.

    Args:
        path: of the folder.
        wait: asked, while another holds it, whether to go on waiting.

    Yields:
        Whether it is held.

    Raises:
        FileError: if the file of the lock cannot be made.
    """
    make_folder(path)
    lock = FileLock(path / LOCK, thread_local=False)
    held = _held(lock)
    while not held and wait():
        time.sleep(LOOK)
        held = _held(lock)
    try:
        yield held
    finally:
        lock.release()


def _held(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    except OSError as error:
        raise FileError(f"{lock.lock_file}: cannot be made: {error.strerror}.") from error
    return True


def slug(text: str) -> str:
    """Return a file name for a method or a setting: another for each, on every system.

    If the text cannot be a name as it is, as with upper case on systems that ignore case, a digest of it
    follows after ``_``.
    """
    if PLAIN.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', text).strip('-')[:LENGTH]}_{digest}"
