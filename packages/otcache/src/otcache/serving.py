"""A policy that stays on a pipeline, for servers: a budget for each request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from otcache.running import module_grid, planned
from otcache.targets import choose
from otcache_core import ExecutionError, OtcacheError, Schedule
from otcache_core.contracts import CacheExecutor, RunHandle, SchedulePlan, Storage
from otcache_core.plugins import Registry
from otcache_core.policy import Policy


class Enabled:
    """A policy that stays on a pipeline until it is removed.

    One pipeline serves one run at a time. Requests of several threads therefore wait for one another
    in ``request``, as do ``set_budget`` and ``remove``; calls of the pipeline outside ``request`` wait
    for nobody, so a server with threads makes every call inside one.

    Args:
        target: the pipeline.
        policy: checked against it at once.
        budget: B of the coming runs outside ``request``; None computes every step.
        strict: refuse a step count or grid other than planned.
        executor: name of an executor plugin, as in :func:`otcache.accelerate`.
        registry: where plugins come from.
        storage: how outputs are kept, as in :func:`otcache.accelerate`.

    Raises:
        OtcacheError: if the target is not supported, does not fit the policy, or the budget is not
            None and not in 1..N.

    Examples:
        >>> handle = otcache.enable(pipe, policy)  # doctest: +SKIP
        >>> with handle.request(budget=8) as run:  # doctest: +SKIP
        ...     image = pipe("a red circle", num_inference_steps=30).images[0]
        >>> handle.remove()  # doctest: +SKIP
    """

    def __init__(
        self,
        target: Any,
        policy: Policy,
        budget: int | None = None,
        *,
        strict: bool = False,
        executor: str | None = None,
        registry: Registry | None = None,
        storage: Storage | None = None,
    ) -> None:
        self._target, self._policy, self._strict = target, policy, strict
        given = {"storage": storage, "grid": module_grid(target, policy, None)}
        self._told: dict[str, Any] = {name: v for name, v in given.items() if v is not None}
        self._registry = registry or Registry()
        self._executor: CacheExecutor = choose(self._registry, "executors", target, executor)
        self._context: AbstractContextManager[RunHandle] | None = None
        self._run: RunHandle | None = None
        self._plan: Schedule | SchedulePlan | None = None
        self._turn = _Turn()
        self._removed = False
        self._plan_for(1)
        self.set_budget(budget)

    @property
    def run(self) -> RunHandle | None:
        """The handle of the current budget's runs; None where every step is computed."""
        return self._run

    def set_budget(self, budget: int | None) -> None:
        """Use another budget from the next run on; a bad one changes nothing.

        Raises:
            OtcacheError: if the budget is not None and not in 1..N, or the handle was removed.
            ExecutionError: inside a request of the same thread, or while a run is under way.
        """
        plan = None if budget is None else self._plan_for(budget)
        with self._turn.taken():
            self._check()
            self._check_idle()
            self._plan = plan
            self._put(plan)

    @contextmanager
    def request(self, budget: int) -> Iterator[RunHandle]:
        """A context in which runs have a budget of their own; waits for other threads' requests.

        Afterwards, also by exception, the budget is that of ``set_budget`` again.

        Args:
            budget: B of this request, in 1..N of the policy.

        Returns:
            The handle of this request's runs, with a report of its own.

        Raises:
            OtcacheError: if the budget is not in 1..N, or the handle was removed.
            ExecutionError: inside a request of the same thread, or while a run outside requests is
                under way.
        """
        plan = self._plan_for(budget)
        with self._turn.taken():
            self._check()
            self._check_idle()
            try:
                yield self._put(plan)
            finally:
                self._put(self._plan)

    def remove(self) -> None:
        """Take everything off the pipeline for good; may be called twice.

        Raises:
            ExecutionError: inside a request of the same thread, or while a run is under way.
        """
        with self._turn.taken():
            self._check_idle()
            self._removed = True
            self._put(None)

    def _plan_for(self, budget: int) -> Schedule | SchedulePlan:
        self._check()
        return planned(
            self._registry,
            self._target,
            self._policy,
            budget,
            strict=self._strict,
            grid=self._told.get("grid"),
        )

    def _check(self) -> None:
        if self._removed:
            raise OtcacheError(
                "this handle must be enabled, got one that was removed: call "
                "otcache.enable(pipe, policy) again."
            )

    def _check_idle(self) -> None:
        if self._run is not None and self._run.running:
            raise ExecutionError(
                "a run must end before the handle is changed, got a change inside it, by a callback or "
                "another thread: change the budget between runs."
            )

    def _put(self, plan: Schedule | SchedulePlan | None) -> Any:
        """Replace what is on the pipeline; the new runs' handle."""
        context, self._context, self._run = self._context, None, None
        if context is not None:
            context.__exit__(None, None, None)
        if plan is not None:
            context = self._executor.attach(self._target, plan, strict=self._strict, **self._told)
            self._run, self._context = context.__enter__(), context
        return self._run


class _Turn:
    """A lock that tells its own thread from others: waiting for oneself would never end."""

    def __init__(self) -> None:
        self._lock, self._owner = threading.Lock(), 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for one's turn.

        Raises:
            ExecutionError: if this thread has it already.
        """
        if self._owner == threading.get_ident():
            raise ExecutionError(
                "a request must end before the handle is changed, got a change inside it: leave the "
                "'with handle.request(...)' block first."
            )
        with self._lock:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = 0


def enable(
    target: Any,
    policy: Policy,
    budget: int | None = None,
    *,
    strict: bool = False,
    executor: str | None = None,
    storage: Storage | None = None,
) -> Enabled:
    """Put a policy on a pipeline until ``handle.remove()``; see :class:`Enabled`."""
    return Enabled(target, policy, budget, strict=strict, executor=executor, storage=storage)
