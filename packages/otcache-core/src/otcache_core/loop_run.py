"""One call of a loop from beginning to end, also of a sampler that pauses (a generator or coroutine)."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol

from otcache_core.errors import ExecutionError

#: The loop whose sampler is running here; None outside of any. "Here" is this thread or task, and what was
#: started with a copy of its context, as by asyncio.to_thread and asyncio.create_task; not the jobs of a
#: thread pool.
LOOP_UNDER_WAY: ContextVar[object] = ContextVar("otcache_loop", default=None)
#: Threads that run a loop's sampler, and which loop's, the innermost last.
_INSIDE: list[tuple[int, object]] = []


class LoopObserver(Protocol):
    """Is called when a loop begins and ends."""

    def loop_begins(self, num_steps: int | None) -> None:
        """Note that a run begins, of N steps as far as that is known."""

    def loop_ends(self, result: Any) -> None:
        """Note what the sampler returned."""

    def loop_fails(self) -> None:
        """Note that the sampler raised or was left."""


def threads_inside(loop: object) -> list[int]:
    """Return the threads that run a loop's sampler."""
    return [thread for thread, inside in list(_INSIDE) if inside is loop]


class LoopRun:
    """Follow one call of a loop.

    A sampler that is a generator, a coroutine or an asynchronous generator runs in steps, with pauses in
    which it is not this run that calls the denoiser. Its run begins with the first step and ends with the
    last, or when it is closed, abandoned or cancelled.

    The loop's observer at the beginning is called, and no other; it is not called any more once it is
    removed.

    Args:
        loop: whose call it is.
        observer: returns the loop's observer now, if there is one.
        num_steps: returns N, as far as it is known; called at the beginning.
        check: begins a check and returns its end, which is called before the observer is.
    """

    def __init__(
        self,
        loop: object,
        observer: Callable[[], LoopObserver | None],
        num_steps: Callable[[], int | None],
        check: Callable[[], Callable[[], None]],
    ) -> None:
        self._loop, self._observer = loop, observer
        self._num_steps, self._check = num_steps, check
        self._first: LoopObserver | None = None
        self._checks: Callable[[], None] = _nothing

    @property
    def listener(self) -> LoopObserver | None:
        """The observer of this call, while it is that of the loop."""
        return self._first if self._first is self._observer() else None

    def begin(self) -> None:
        """Report the beginning to the observer."""
        first = self._first = self._observer()
        if first is not None:
            self._checks = self._check()
            first.loop_begins(self._num_steps())

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Mark what is called in this context as called by the sampler."""
        token, entry = LOOP_UNDER_WAY.set(self._loop), (threading.get_ident(), self._loop)
        _INSIDE.append(entry)
        try:
            yield
        finally:
            _INSIDE.remove(entry)
            LOOP_UNDER_WAY.reset(token)

    def end(self, result: Any) -> None:
        """Report to the observer that the sampler returned ``result``."""
        listener = self.listener
        if listener is None:
            return
        try:
            self._checks()
        except BaseException:
            listener.loop_fails()
            raise
        listener.loop_ends(result)

    def fail(self) -> None:
        """Report to the observer that the sampler raised, or was left."""
        listener = self.listener
        if listener is not None:
            listener.loop_fails()


def pauses(sample_fn: Callable[..., Any]) -> bool:
    """Return whether a sampler is known to run in steps, before it is called."""
    kinds = (
        inspect.isgeneratorfunction,
        inspect.iscoroutinefunction,
        inspect.isasyncgenfunction,
    )
    return any(kind(sample_fn) for kind in kinds)


def in_steps(run: LoopRun, made: Any, begun: bool) -> Any:
    """Return what follows a sampler through its steps; None if it has returned a result already.

    Args:
        run: of the loop.
        made: what the sampler returned.
        begun: whether the run's beginning was reported already.
    """
    begin = _nothing if begun else run.begin
    if inspect.isgenerator(made):
        return _followed(run, made, begin, keeps_last=True)
    if inspect.isasyncgen(made):
        return _streamed(run, made, begin)
    if inspect.iscoroutine(made) or (inspect.isawaitable(made) and run.listener is not None):
        return _awaited(run, made, begin)
    return None


def finished(made: Any) -> Any:
    """Return the final result of a sampler, which is that of its last step if it runs in steps.

    Raises:
        ExecutionError: if it needs an event loop, and one runs in this thread.
    """
    if inspect.isgenerator(made):
        return _last(made)
    if not (inspect.isasyncgen(made) or inspect.iscoroutine(made)):
        return made
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_last_async(made) if inspect.isasyncgen(made) else made)
    if inspect.iscoroutine(made):
        made.close()
    raise ExecutionError(
        "a sampler that is a coroutine must run to its end, got one in a thread with a running event loop: "
        "call this in another, by await asyncio.to_thread(...)."
    )


def _last(steps: Generator[Any, Any, Any]) -> Any:
    last = None
    while True:
        try:
            last = next(steps)
        except StopIteration as stop:
            return last if stop.value is None else stop.value


async def _last_async(steps: AsyncIterator[Any]) -> Any:
    last = None
    async for state in steps:
        last = state
    return last


def _followed(
    run: LoopRun, steps: Any, begin: Callable[[], None], keeps_last: bool
) -> Generator[Any, Any, Any]:
    """Go through the steps of a generator or a coroutine; its result ends the run."""
    begin()
    last, resume = None, partial(steps.send, None)
    while True:
        try:
            with run.inside():
                last = resume()
        except StopIteration as stop:
            run.end(last if keeps_last and stop.value is None else stop.value)
            return stop.value
        except BaseException:
            run.fail()
            raise
        try:
            resume = partial(steps.send, (yield last))
        except GeneratorExit:
            with run.inside():
                steps.close()
            run.fail()
            raise
        except BaseException as error:
            resume = partial(steps.throw, error)


class _Step:
    """Await something with every step of it marked as the sampler's."""

    def __init__(self, run: LoopRun, steps: Any) -> None:
        self._run, self._steps = run, steps

    def __await__(self) -> Generator[Any, Any, Any]:
        silent = LoopRun(self._run._loop, _nothing, _nothing, lambda: _nothing)
        return _followed(silent, self._steps, _nothing, keeps_last=False)


async def _awaited(run: LoopRun, made: Any, begin: Callable[[], None]) -> Any:
    begin()
    try:
        result = await (_Step(run, made) if inspect.iscoroutine(made) else made)
    except BaseException:
        run.fail()
        raise
    run.end(result)
    return result


async def _streamed(run: LoopRun, steps: Any, begin: Callable[[], None]) -> AsyncIterator[Any]:
    begin()
    last = given = None
    try:
        while True:
            try:
                last = await _Step(run, steps.asend(given))
            except StopAsyncIteration:
                break
            given = yield last
    except BaseException:
        run.fail()
        await steps.aclose()
        raise
    run.end(last)


def _nothing() -> None:
    """Do nothing."""


LATE = (
    "a run must begin before its request ends, got one whose request was cancelled or had failed before: its "
    "thread went on. Nobody waits for that run, so it is not made; for one that is wanted call "
    "handle.request(...) again."
)


class OpenRequest:
    """A request of a run, while it lasts.

    Attributes:
        abandoned: whether the request failed or was cancelled before its run began. A thread that is about to
            begin the run cannot be stopped, and would disturb the next request's run.
    """

    def __init__(self) -> None:
        self.abandoned = False


#: The requests that this code runs in, the innermost last, also in threads and tasks started from them.
OPEN_REQUESTS: ContextVar[tuple[OpenRequest, ...]] = ContextVar("otcache_requests", default=())


def refuse_late_run() -> None:
    """Raise in a run whose request was abandoned; once for each request.

    Raises:
        ExecutionError: if the innermost request was abandoned.
    """
    requests = OPEN_REQUESTS.get()
    if requests and requests[-1].abandoned:
        requests[-1].abandoned = False
        raise ExecutionError(LATE)
