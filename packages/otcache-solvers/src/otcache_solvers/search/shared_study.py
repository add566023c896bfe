"""An Optuna study in a database, for several processes or for another day."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from otcache_core import OtcacheError, Schedule
from otcache_core.errors import expected
from otcache_solvers.search.trial_book import TrialBook

IDENTITY, SCHEDULE = "otcache ", "schedule"
#: Seconds to wait for another process's write; SQLite's own 5 are few for a slow disk.
SQLITE_PATIENCE = 60.0
#: Processes that make the tables at the same moment collide, at most once a table.
COLLISIONS = 30


@dataclass(frozen=True)
class SharedStudy:
    """Where a study is kept, and what it is of.

    Args:
        storage: URL of a database as SQLAlchemy takes it, ``sqlite:///search.db`` for a file.
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

        sqlite = self.storage.startswith("sqlite")
        options = {"connect_args": {"timeout": SQLITE_PATIENCE}} if sqlite else {}
        for left in reversed(range(COLLISIONS)):
            try:
                storage = optuna.storages.RDBStorage(self.storage, engine_kwargs=options)
                break
            except Exception as error:
                if not left or not re.search("already exists|unique|duplicate", str(error), re.I):
                    raise
        return optuna.create_study(
            storage=storage, study_name=self.name, load_if_exists=True, sampler=sampler
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
                "a database that can be reached",
                f"{type(error).__name__}: {reason}. Check the URL (sqlite:///FILE for a file), "
                "that its folder exists and may be written, and that the database's driver is "
                "installed; without storage the search stays in memory.",
            )
        )
