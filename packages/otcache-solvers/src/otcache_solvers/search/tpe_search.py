"""Optuna's seeded TPE over the two parameters of a warp, alone or in a study shared by processes."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otcache_core import OtcacheError, Schedule
from otcache_core.errors import expected
from otcache_core.transport import levels, quantile_function, round_to_steps
from otcache_solvers.needs import library
from otcache_solvers.search.trial_book import TrialBook

#: Range of log a and of log b in a search.
LIMITS = (-1.5, 1.5)


@dataclass(frozen=True)
class Kumaraswamy:
    r"""A quantile function: where on the timeline the u-th part of the computed steps lies.

    .. math:: Q(u) = 1 - (1 - u^a)^b

    (a, b) = (1, 1) is the uniform schedule; a > 1 puts more of the steps early in the run, b > 1
    more of them late.

    References:
        P. Kumaraswamy, A generalized probability density function for double-bounded random
        processes (1980), https://doi.org/10.1016/0022-1694(80)90036-0

    Args:
        log_a: log a.
        log_b: log b.

    Examples:
        >>> Kumaraswamy().schedule(num_steps=12, budget=4).computed
        (0, 3, 6, 9)
        >>> Kumaraswamy(log_a=0.7).schedule(num_steps=12, budget=4).computed
        (0, 1, 3, 7)
    """

    log_a: float = 0.0
    log_b: float = 0.0

    def __call__(self, u: ArrayLike) -> NDArray[np.float64]:
        """Return Q(u) for u in [0, 1]."""
        return _quantiles(np.asarray(u, dtype=np.float64), self.log_a, self.log_b)

    def schedule(self, num_steps: int, budget: int) -> Schedule:
        """Round Q((m-1)/B) to the B nearest distinct steps."""
        steps = round_to_steps(self(levels(budget)), num_steps)
        return Schedule(num_steps=num_steps, computed=steps)

    @classmethod
    def nearest(cls, schedule: Schedule, resolution: int = 61) -> Kumaraswamy:
        """Fit (a, b) to the quantile function of a schedule by least squares on a grid.

        Args:
            schedule: any.
            resolution: grid points for each of log a and log b.
        """
        u = np.linspace(0, 1, 65)
        logs = np.linspace(*LIMITS, resolution)
        tried = _quantiles(u, logs[:, None, None], logs[None, :, None])
        misfit = np.square(tried - quantile_function(schedule)(u)).sum(axis=-1)
        i, j = np.unravel_index(misfit.argmin(), misfit.shape)
        return cls(float(logs[i]), float(logs[j]))


def _quantiles(u: NDArray[np.float64], log_a: ArrayLike, log_b: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(1 - (1 - u ** np.exp(log_a)) ** np.exp(log_b))


ASKS_PER_TRIAL = 4


def search(
    book: TrialBook,
    warm: Sequence[Schedule],
    *,
    trials: int,
    seed: int,
    shared: SharedStudy | None = None,
) -> None:
    """Run schedules of the warp family until the book has tried ``trials``.

    Many points give the same schedule: a duplicate is reported to the sampler again but not run
    again, and the search gives up after four suggestions a trial.

    Args:
        book: where schedules are run and kept.
        warm: schedules of one N and budget, whose nearest points are tried first, in one call of
            the evaluator.
        trials: number of schedules tried at which to stop.
        seed: of the sampler; in a shared study also the number of the first trial taken, so that
            no two processes search alike.
        shared: keep the study there, and enter in the book what others run.

    Raises:
        OtcacheError: if Optuna is not installed, or the shared study cannot be reached or is of
            something else.
    """
    optuna = library("optuna", "solver 'anchor-search'")
    n, budget = warm[0].num_steps, warm[0].budget

    def sampler(number: int) -> Any:
        startup = max(4, trials // 4)
        return optuna.samplers.TPESampler(seed=seed + number, n_startup_trials=startup)

    first = sampler(0)
    with quiet("optuna"), nullcontext() if shared is None else shared.reached():
        study = optuna.create_study(sampler=first) if shared is None else shared.open(first)
        if shared is not None:
            shared.learn(study, book)
        points = [asdict(Kumaraswamy.nearest(schedule)) for schedule in warm]
        points = points[: max(trials - book.tried, 0)]
        if shared is None:
            for point in points:
                study.enqueue_trial(point)
        else:
            _add(study, points, n, budget, book)
        batch = 1 if shared else max(1, len(points))
        for turn in range(ASKS_PER_TRIAL * trials):
            if book.tried >= trials:
                return
            asked = [study.ask(_distributions()) for _ in range(batch)]
            schedules = [Kumaraswamy(**trial.params).schedule(n, budget) for trial in asked]
            values = book.errors(schedules)
            for trial, schedule, value in zip(asked, schedules, values, strict=True):
                if shared is not None:
                    trial.set_user_attr(SCHEDULE, book[schedule].schedule.to_dict())
                study.tell(trial, value)
            batch = 1
            if shared is not None:
                if turn == 0:
                    study.sampler = sampler(asked[0].number)
                shared.learn(study, book)


def _add(study: Any, points: list[dict[str, float]], n: int, budget: int, book: TrialBook) -> None:
    """Run points that a shared study lacks; one queued there could be taken by two at once."""
    from optuna.trial import create_trial

    known = [trial.params for trial in study.get_trials(deepcopy=False)]
    fresh = [point for point in points if point not in known]
    schedules = [Kumaraswamy(**point).schedule(n, budget) for point in fresh]
    for point, schedule, value in zip(fresh, schedules, book.errors(schedules), strict=True):
        trial = create_trial(
            params=point,
            distributions=_distributions(),
            value=value,
            user_attrs={SCHEDULE: book[schedule].schedule.to_dict()},
        )
        study.add_trial(trial)


def _distributions() -> dict[str, Any]:
    from optuna.distributions import FloatDistribution

    return {name: FloatDistribution(*LIMITS) for name in ("log_a", "log_b")}


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Keep a library's own log handlers silent below WARNING, on this thread only.

    Its level and the other threads' records are not touched.
    """
    thread = threading.get_ident()

    def loud(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or threading.get_ident() != thread

    handlers = list(logging.getLogger(library).handlers)
    for handler in handlers:
        handler.addFilter(loud)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(loud)


IDENTITY, SCHEDULE = "otcache ", "schedule"
#: Seconds to wait for another process's write; SQLite's own 5 are few for a slow disk.
SQLITE_PATIENCE = 60.0
#: Seconds to wait for a server.
GRPC_PATIENCE = 30.0
#: Processes that make the tables at the same moment collide, at most once a table.
COLLISIONS = 30


def storage_at(url: str) -> Any:
    """Return a storage of Optuna's.

    Args:
        url: of a database as SQLAlchemy takes it, ``sqlite:///search.db`` for a file that processes of one
            machine share; ``journal:///shared/search.log`` for a file on a file system that machines
            share, NFS too, with no server; ``grpc://host:13000`` for many machines, through
            ``optuna.storages.run_grpc_proxy_server`` on one of them.

    Raises:
        Exception: whatever the storage raises that cannot be reached.
    """
    import optuna

    kind, _, place = url.partition("://")
    if kind == "journal":
        from optuna.storages.journal import JournalFileBackend

        backend = JournalFileBackend(place)
        return optuna.storages.JournalStorage(backend)
    if kind == "grpc":
        host, _, port = place.rpartition(":")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            proxy = optuna.storages.GrpcStorageProxy(host=host, port=int(port))
        proxy.wait_server_ready(timeout=GRPC_PATIENCE)
        return proxy
    options = {"connect_args": {"timeout": SQLITE_PATIENCE}} if kind == "sqlite" else {}
    for left in reversed(range(COLLISIONS)):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except Exception as error:
            if not left or not re.search("already exists|unique|duplicate", str(error), re.I):
                raise
    raise AssertionError


@dataclass(frozen=True)
class SharedStudy:
    """Where a study is kept, and what it is of.

    Args:
        storage: URL, as :func:`storage_at` takes it.
        name: of the study within it; made if missing.
        identity: plain facts that all processes which take part must share.
    """

    storage: str
    name: str
    identity: dict[str, Any]

    def open(self, sampler: Any = None) -> Any:
        """Make the study, with a sampler of Optuna's, or join it; call :meth:`learn` next.

        Raises:
            OtcacheError: if the database cannot be reached, or another program began the study.
        """
        try:
            study = self._opened(sampler)
        except Exception as error:  # every database driver raises types of its own
            raise self._unreachable(error) from error
        with self.reached():
            begun = bool(study.get_trials(deepcopy=False))  # before the attributes: they come first
            if not self._identities(study):
                if begun:
                    advice = "it holds trials of another program. Choose another name."
                    raise OtcacheError(
                        expected("study", self.name, "one of an anchor search", advice)
                    )
                # A key of its own, so that two that begin at once and differ both see it.
                key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
                study.set_user_attr(IDENTITY + key[:16], self.identity)
        return study

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Turn a storage that fails on the way into an OtcacheError."""
        from optuna.exceptions import StorageInternalError

        try:
            yield
        except StorageInternalError as error:
            raise self._unreachable(error) from error
        except Exception as error:
            # What is run meanwhile may fail by itself. grpc need not be installed.
            file = str(getattr(error, "filename", None) or "")
            own = file.startswith(self.storage.removeprefix("journal://"))
            if not own and type(error).__module__.partition(".")[0] != "grpc":
                raise
            raise self._unreachable(error) from error

    def learn(self, study: Any, book: TrialBook) -> None:
        """Enter in the book what other processes ran.

        Raises:
            OtcacheError: if the study is of something else, or cannot be reached.
        """
        from optuna.trial import TrialState

        with self.reached():
            for found in self._identities(study):
                self._check(found)
            trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        for trial in trials:
            if SCHEDULE in trial.user_attrs:
                book.adopt(Schedule(**trial.user_attrs[SCHEDULE]), trial.value)

    def _opened(self, sampler: Any) -> Any:
        import optuna

        return optuna.create_study(
            storage=storage_at(self.storage),
            study_name=self.name,
            load_if_exists=True,
            sampler=sampler,
        )

    def _identities(self, study: Any) -> list[dict[str, Any]]:
        attributes = study.user_attrs.items()
        return [value for name, value in attributes if name.startswith(IDENTITY)]

    def _check(self, found: dict[str, Any]) -> None:
        for what, mine in self.identity.items():
            if found.get(what) != mine:
                raise OtcacheError(
                    expected(
                        f"{what} of study {self.name!r}",
                        mine,
                        repr(found.get(what)),
                        "it was begun so. Choose another study name, or take part as it is.",
                    )
                )

    def _unreachable(self, error: Exception) -> OtcacheError:
        reason = str(error).split("\n", 1)[0]
        return OtcacheError(
            expected(
                "storage",
                re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", self.storage),
                "a database, file or server that can be reached",
                f"{type(error).__name__}: {reason}. "
                "Check the URL (sqlite:///FILE and journal:///FILE for a file, grpc://HOST:PORT for a "
                "server), that its folder exists and may be written, and that the driver is installed; "
                "without storage the search stays in memory.",
            )
        )
