"""A policy that stays on a pipeline, for servers: a budget for each request.

:class:`Enabled` is the handle, :class:`Request` the context of one request; requests wait for one another in
:class:`Turns`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakSet

from otcache.running import (
    Accelerated,
    choose,
    expected_of,
    module_grid,
    on,
    put_on,
    requested_budget,
    schedule_of,
    take_off,
)
from otcache_core import ExecutionError, OtcacheError, Schedule
from otcache_core.callable_denoiser import is_module
from otcache_core.contracts import CacheStorage, RunHandle, ScheduleByGrid
from otcache_core.loop_run import OPEN_REQUESTS, OpenRequest
from otcache_core.notices import notify
from otcache_core.numbers import integer
from otcache_core.plugins import Registry, installed
from otcache_core.policy import Policy


class Steps(NamedTuple):
    """What the coming runs follow, and the errors that the policy expects of it."""

    schedule: Schedule | ScheduleByGrid
    expected: Mapping[str, float]


#: Seconds between two checks whether a run that a request left behind has ended.
_LOOK = 0.005
#: What the names of threads of the pool behind ``asyncio.to_thread`` begin with.
_POOL = "asyncio_"
INSIDE = (
    "a request must end before the handle is changed, got a change inside it: leave the "
    "'with handle.request(...)' block first."
)
FULL_POOL = (
    "a thread of asyncio's own pool waits for a request, and where all of them wait, the one whose turn it "
    "is finds none to run in: write 'async with handle.request(...)' around asyncio.to_thread."
)


class Enabled:
    """A policy that stays on a pipeline until it is removed, also if no variable refers to this handle.

    The handle lives on the pipeline and is collected with it: ``otcache.enabled(pipe)`` finds it, copies of
    the pipeline do not have it. One pipeline serves one run at a time: requests of threads and tasks
    wait for one another in ``request``, first come, first served, as do ``set_budget`` and ``remove``; calls
    of the pipeline outside ``request`` do not wait, so a server makes every call inside one. Pipelines
    that share the weights and have a scheduler each are enabled each, and do not wait for one another.

    Args:
        target: the pipeline.
        policy: checked against it at once; None, if nothing was calibrated: the default schedule of
            :func:`otcache.accelerate`, for runs of any N.
        budget: B of the coming runs outside ``request``; None computes every step.
        strict: raise for another step count or grid than the policy's.
        executor: name of an executor plugin, as in :func:`otcache.accelerate`.
        probe: name of a probe plugin, as in :func:`otcache.accelerate`.
        registry: where plugins come from, as in :func:`otcache.accelerate`.
        storage: how outputs are kept, as in :func:`otcache.accelerate`.
        calls_per_step: denoiser calls of one step where the target is a module, as in
            :func:`otcache.accelerate`.

    Raises:
        OtcacheError: if the target is not supported, does not fit the policy, or the budget is not
            None and not in 1..N.
        ExecutionError: if the target is enabled or accelerated already.

    Examples:
        >>> handle = otcache.enable(pipe, policy)  # doctest: +SKIP
        >>> with handle.request(budget=8) as run:  # doctest: +SKIP
        ...     image = pipe("a red circle", num_inference_steps=30).images[0]
        >>> async with handle.request(budget=8) as run:  # doctest: +SKIP
        ...     image = (await asyncio.to_thread(pipe, "a red circle")).images[0]
        >>> handle.remove()  # doctest: +SKIP
    """

    def __init__(
        self,
        target: Any,
        policy: Policy | None = None,
        budget: int | None = None,
        *,
        strict: bool = False,
        executor: str | None = None,
        probe: str | None = None,
        registry: Registry | None = None,
        storage: CacheStorage | None = None,
        calls_per_step: int | None = None,
    ) -> None:
        _refuse_twice(target)
        self._target, self._policy, self._strict = target, policy, strict
        given: dict[str, Any] = {"storage": storage, "grid": module_grid(target, policy, None)}
        if calls_per_step is not None:
            given["calls_per_step"] = integer("calls_per_step", calls_per_step, 1)
        self._given = {name: v for name, v in given.items() if v is not None}
        self._registry, self._probe = registry or installed(), probe
        self._executor = choose(self._registry, "executors", target, executor)
        self._context: AbstractContextManager[RunHandle] | None = None
        self._run: RunHandle | None = None
        self._budget: int | None = None
        self._schedule: Steps | None = None
        self._turns = Turns()
        self._dropped: deque[tuple[RunHandle, Turn]] = deque()
        self._abandoned: WeakSet[Turn] = WeakSet()
        self._removed = False
        self._schedule_for(1)
        self.set_budget(budget)
        put_on(target, self)

    @property
    def run(self) -> RunHandle | None:
        """The handle of the current budget's runs; None where every step is computed."""
        return self._run

    @property
    def budget(self) -> int | None:
        """B of runs outside requests; None computes every step."""
        return self._budget

    def set_budget(self, budget: int | None) -> None:
        """Use another budget from the next run on; a bad one changes nothing.

        Raises:
            OtcacheError: if the budget is not None and not in 1..N, or the handle was removed.
            ExecutionError: inside a request, while a run is under way, or where it would have to wait on a
                thread with a running event loop.
        """
        schedule = None if budget is None else self._schedule_for(budget)
        with self._turn("await asyncio.to_thread(handle.set_budget, budget)."):
            self._check()
            self._check_idle()
            self._schedule, self._budget = schedule, None if budget is None else int(budget)
            self._put(schedule)

    def request(self, budget: int | None = None, *, quality: str | None = None) -> Request:
        """Return a context in which runs have a budget of their own.

        ``with`` waits for others' requests in this thread, ``async with`` without blocking the event loop.
        The run may be made in any thread or task. Afterwards, also by exception or cancellation, the budget
        is that of ``set_budget`` again; a run that goes on in another thread keeps its own budget to its
        end, and the next request waits for that.

        Args:
            budget: B of this request, in 1..N of the policy; without a policy a run of fewer steps is
                computed in full.
            quality: instead, a name that :meth:`otcache.Policy.for_quality` takes.

        Returns:
            A context whose value is the handle of this request's runs, with a report of its own.

        Raises:
            OtcacheError: if the budget is not in 1..N, there is no policy of which the quality is known, or
                the handle was removed.
            ExecutionError: on entry inside a request of the same thread or task, while a run outside requests
                is under way, or where ``with`` would have to wait on a thread with a running event loop.
        """
        return Request(self, self._schedule_for(requested_budget(self._policy, budget, quality)))

    def remove(self) -> None:
        """Take everything off the pipeline for good; may be called twice.

        Raises:
            ExecutionError: as ``set_budget`` does.
        """
        with self._turn("await asyncio.to_thread(handle.remove)."):
            self._check_idle()
            self._removed = True
            self._put(None)
            take_off(self._target, self)

    def __reduce__(self) -> tuple[Any, ...]:
        raise ExecutionError(
            "a handle belongs to its pipeline, and cannot be copied or pickled: save the policy with "
            "policy.save(...), and call otcache.enable(pipe, otcache.load_policy(...)) for the other one."
        )

    @contextmanager
    def _turn(self, advice: str) -> Iterator[None]:
        self._close_dropped()
        turn = self._turns.take(advice)
        try:
            yield
        finally:
            self._turns.give(turn)

    def _open(self, schedule: Steps, turn: Turn) -> RunHandle:
        """Begin a request whose turn it is."""
        try:
            self._check()
            self._check_idle()
        except BaseException:
            self._turns.give(turn)
            raise
        try:
            run: RunHandle = self._put(schedule)
            return run
        except BaseException:
            self._settle(turn)
            raise

    def _close(self, run: RunHandle, turn: Turn, failed: bool = False) -> None:
        """End a request; where its run goes on in another thread, as after a cancellation, end it later.

        Of one that failed without a run a thread may be on its way to the pipeline: such a run is refused
        as long as anything of the request is left.
        """
        turn.abandoned = failed and run.report.idle and not run.running
        if turn.abandoned:
            self._abandoned.add(turn)
        if self._left_behind(run):
            self._turns.leave(turn)
            threading.Thread(target=self._close_later, args=(run, turn), daemon=True).start()
        else:
            self._settle(turn)

    def _drop(self, run: RunHandle, turn: Turn) -> None:
        """End a request that no code can leave any more.

        The garbage collector may call this anywhere, also where a lock is held: so another thread ends it,
        or the next request for a turn does.
        """
        self._dropped.append((run, turn))
        threading.Thread(target=self._close_dropped, daemon=True).start()

    def _close_dropped(self) -> None:
        with suppress(IndexError):
            while True:
                self._close(*self._dropped.popleft())

    def _close_later(self, run: RunHandle, turn: Turn) -> None:
        while self._left_behind(run):
            time.sleep(_LOOK)
        self._settle(turn)

    def _left_behind(self, run: RunHandle) -> bool:
        # Threads that wait for their turn, or end it, may do so inside a pipeline's call.
        return run.busy({threading.get_ident(), *self._turns.waiting_threads()})

    def _settle(self, turn: Turn) -> None:
        """Go back to the budget of the handle, and give the turn back, also after an error."""
        following = None
        try:
            following = self._put(self._schedule)
        finally:
            if following is not None and turn.abandoned and self._left_behind(following):
                # Its run came while the schedule was changed, and so was not refused.
                turn.abandoned = False
                self._turns.leave(turn)
                threading.Thread(
                    target=self._close_later, args=(following, turn), daemon=True
                ).start()
            else:
                self._turns.give(turn)

    def _schedule_for(self, budget: int) -> Steps:
        self._check()
        schedule = schedule_of(
            self._registry,
            self._target,
            self._policy,
            budget,
            strict=self._strict,
            grid=self._given.get("grid"),
            probe=self._probe,
        )
        return Steps(schedule, expected_of(self._policy, budget))

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

    def _put(self, steps: Steps | None) -> Any:
        """Replace what is on the pipeline, and return the new runs' handle."""
        context, self._context, self._run = self._context, None, None
        if context is not None:
            context.__exit__(None, None, None)
        if steps is not None:
            context = self._executor.attach(
                self._target, steps.schedule, strict=self._strict, **self._given
            )
            self._run, self._context = context.__enter__(), context
            self._run.report.expected = dict(steps.expected)
        elif self._guarded:
            context = self._executor.attach(
                self._target, lambda grid: Schedule.full(len(grid) - 1), strict=False, **self._given
            )
            guard, self._context = context.__enter__(), context
            return guard
        return self._run

    @property
    def _guarded(self) -> bool:
        """Whether runs must be watched although all of their steps are computed."""
        return bool(self._abandoned) and not self._removed and not is_module(self._target)


class Request:
    """A context of ``handle.request``: ``with`` waits in this thread, ``async with`` in this task.

    Args:
        handle: whose request it is.
        schedule: of its budget.
    """

    def __init__(self, handle: Enabled, schedule: Steps) -> None:
        self._handle, self._schedule = handle, schedule
        self._open: tuple[RunHandle, Turn] | None = None

    def __enter__(self) -> RunHandle:
        self._check()
        self._handle._close_dropped()
        return self._begin(
            self._handle._turns.take(
                "write 'async with handle.request(...)', which waits in its task."
            )
        )

    def __exit__(self, *error: object) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            self._handle._close(*opened, failed=error[0] is not None)

    async def __aenter__(self) -> RunHandle:
        self._check()
        self._handle._close_dropped()
        return self._begin(await self._handle._turns.take_async())

    async def __aexit__(self, *error: object) -> None:
        self.__exit__(*error)

    def __copy__(self) -> Request:
        return Request(self._handle, self._schedule)

    def __del__(self) -> None:
        opened, self._open = getattr(self, "_open", None), None
        if opened is not None and not sys.is_finalizing():  # then a thread's start never returns
            self._handle._drop(*opened)
            notify(
                "a request was entered and never left, and ends now that nothing refers to it: write "
                "'with handle.request(...)', or keep the request and call its __exit__."
            )

    def _check(self) -> None:
        if self._open is not None:
            raise ExecutionError(
                "a request is entered once at a time, got a second entry: call handle.request(...) for each."
            )

    def _begin(self, turn: Turn) -> RunHandle:
        run = self._handle._open(self._schedule, turn)
        self._open = run, turn
        return run


def _refuse_twice(target: Any) -> None:
    things, kind = on(target), type(target).__name__
    if not things:
        return
    if isinstance(things[-1], Accelerated):
        raise ExecutionError(
            f"{kind} is accelerated already: leave that context first; otcache.enabled(pipe).remove() does "
            "it if the context is out of reach."
        )
    raise ExecutionError(
        f"{kind} is enabled already: handle.request(...) and handle.set_budget(...) give another budget; for "
        "another policy call handle.remove() first. otcache.enabled(pipe) is the handle if it was not kept."
    )


#: Put a policy on a pipeline until ``handle.remove()``; see :class:`Enabled`.
enable = Enabled


class Turns:
    """Give one turn at a time, first come, first served.

    Threads wait blocked; tasks wait without blocking their event loop. A request inside a turn
    would wait for itself, also in a task or an ``asyncio.to_thread`` that was started there: that
    is an error. A turn may be given back from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Turn] = deque()
        self._holder: Turn | None = None

    def take(self, advice: str) -> Turn:
        """Wait for a turn in this thread.

        Args:
            advice: what to do instead where a running event loop would be blocked.

        Raises:
            ExecutionError: inside a turn, or if an event loop runs here and the turn is not free.
        """
        granted = threading.Event()
        turn = Turn(granted.set, threading.get_ident())
        if not self._queue(turn):
            try:
                _refuse_to_block(advice)
                if threading.current_thread().name.startswith(_POOL):
                    notify(FULL_POOL)
                granted.wait()
            except BaseException:
                self.give(turn)
                raise
        return self._mark(turn)

    async def take_async(self) -> Turn:
        """Wait for a turn in this task; stop waiting if the task is cancelled.

        Raises:
            ExecutionError: inside a turn.
        """
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        turn = Turn(partial(loop.call_soon_threadsafe, _settle, granted))
        if not self._queue(turn):
            try:
                await granted
            except BaseException:
                self.give(turn)
                raise
        return self._mark(turn)

    def give(self, turn: Turn) -> None:
        """Give a turn back, or stop waiting for it; may be called twice."""
        self.leave(turn)
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
            if turn is self._holder:
                self._holder = None
                self._pass_on()

    @staticmethod
    def leave(turn: Turn) -> None:
        """Leave a turn that is given back elsewhere: a request here now waits for that."""
        OPEN_REQUESTS.set(tuple(request for request in OPEN_REQUESTS.get() if request is not turn))

    def waiting_threads(self) -> Collection[int]:
        """Return which threads wait."""
        with self._lock:
            return {turn.thread for turn in self._waiting if turn.thread is not None}

    def _queue(self, turn: Turn) -> bool:
        """Return whether it is its turn at once."""
        with self._lock:
            if self._holder is not None and self._holder in OPEN_REQUESTS.get():
                raise ExecutionError(INSIDE)
            if self._holder is None:
                self._holder = turn
                return True
            self._waiting.append(turn)
            return False

    def _mark(self, turn: Turn) -> Turn:
        OPEN_REQUESTS.set((*OPEN_REQUESTS.get(), turn))
        return turn

    def _pass_on(self) -> None:
        while self._waiting and self._holder is None:
            self._holder = self._waiting.popleft()
            try:
                self._holder.wake()
            except RuntimeError:  # its event loop was closed: no task waits there any more
                self._holder = None


def _settle(granted: asyncio.Future[None]) -> None:
    if not granted.done():
        granted.set_result(None)


def _refuse_to_block(advice: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ExecutionError(
        "a thread with a running event loop must not wait for other requests, which that loop may "
        f"have to finish: {advice}"
    )


class Turn(OpenRequest):
    """One wait for a turn, and the turn itself.

    Attributes:
        wake: called when it is its turn.
        thread: that waits; None of a task, which blocks no thread.
    """

    def __init__(self, wake: Callable[[], object], thread: int | None = None) -> None:
        super().__init__()
        self.wake, self.thread = wake, thread
