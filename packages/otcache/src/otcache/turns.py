"""Turns of threads and tasks at one thing, first come, first served."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Collection
from functools import partial

from otcache_core import ExecutionError
from otcache_core.loop_run import HELD, Lease
from otcache_core.notices import notify

INSIDE = (
    "a request must end before the handle is changed, got a change inside it: leave the "
    "'with handle.request(...)' block first."
)


FULL_POOL = (
    "a thread of asyncio's own pool waits for a request, and where all of them wait, the one whose turn it "
    "is finds none to run in: write 'async with handle.request(...)' around asyncio.to_thread."
)
#: What the names of threads of the pool behind ``asyncio.to_thread`` begin with.
_POOL = "asyncio_"


class Turn(Lease):
    """One wait for a turn, and the turn itself.

    Attributes:
        wake: called when it is its turn.
        thread: that waits; None of a task, which blocks no thread.
    """

    def __init__(self, wake: Callable[[], object], thread: int | None = None) -> None:
        super().__init__()
        self.wake, self.thread = wake, thread


class Turns:
    """Give one turn at a time, in the order in which they were asked for.

    Threads wait blocked; tasks wait without blocking their event loop. Whoever asks inside a turn of
    its own would wait for itself, also from a task or an ``asyncio.to_thread`` that was started there: that
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
        if not self._ask(turn):
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
        """Wait for a turn in this task; one that is cancelled meanwhile asks no more.

        Raises:
            ExecutionError: inside a turn.
        """
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        turn = Turn(partial(loop.call_soon_threadsafe, _settle, granted))
        if not self._ask(turn):
            try:
                await granted
            except BaseException:
                self.give(turn)
                raise
        return self._mark(turn)

    def give(self, turn: Turn) -> None:
        """Give a turn back, or wait for it no more; may be called twice."""
        self.leave(turn)
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
            if turn is self._holder:
                self._holder = None
                self._pass_on()

    @staticmethod
    def leave(turn: Turn) -> None:
        """Be inside a turn no more, which somebody else gives back: who asks here now waits for that."""
        HELD.set(tuple(held for held in HELD.get() if held is not turn))

    def waiting_threads(self) -> Collection[int]:
        """Return which threads wait."""
        with self._lock:
            return {turn.thread for turn in self._waiting if turn.thread is not None}

    def _ask(self, turn: Turn) -> bool:
        """Return whether it is this one's turn at once."""
        with self._lock:
            if self._holder is not None and self._holder in HELD.get():
                raise ExecutionError(INSIDE)
            if self._holder is None:
                self._holder = turn
                return True
            self._waiting.append(turn)
            return False

    def _mark(self, turn: Turn) -> Turn:
        HELD.set((*HELD.get(), turn))
        return turn

    def _pass_on(self) -> None:
        while self._waiting and self._holder is None:
            self._holder = self._waiting.popleft()
            try:
                self._holder.wake()
            except RuntimeError:  # its event loop was closed: nobody waits there any more
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
        "a thread with a running event loop must not wait for the requests of others, which that loop may "
        f"have to finish: {advice}"
    )
