"""In which call of which pipeline a run lives."""

from __future__ import annotations

import gc
import inspect
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any

from otcache_diffusers.compat import pipeline_class

_PAUSES = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR

#: What can pause; where its code and its frame are.
_PAUSING: dict[type, tuple[str, str]] = {
    GeneratorType: ("gi_code", "gi_frame"),
    CoroutineType: ("cr_code", "cr_frame"),
    AsyncGeneratorType: ("ag_code", "ag_frame"),
}
#: How often the stack of a thread that runs on is looked through.
_LOOKS = 5
#: What a frame is known again by.
Mark = tuple[Any, ...]
#: The run that a coroutine announced, in its context and in what ``asyncio.to_thread`` makes of that.
_ANNOUNCED: ContextVar[Home | None] = ContextVar("otcache_announced", default=None)


class Calls:
    """Finds the calls of pipelines on the stack.

    A pipeline's call is a frame that runs the ``__call__`` of a pipeline class, or of a base of the
    class given. Locals are looked at only to tell two pipelines of a class apart: before Python 3.13 that
    keeps them until the call ends.

    Args:
        kind: a class whose calls are known from the start.
    """

    def __init__(self, kind: type) -> None:
        # By identity, since a code object's hash reads all of it; the code is kept with its verdict.
        self._known: dict[int, tuple[CodeType, bool]] = {}
        for base in kind.__mro__:
            code = _code(base)
            # A decorator's wrapper, which may be around other methods too, has a name of its own.
            if code is not None and code.co_name == "__call__":
                self._known[id(code)] = code, True

    def innermost(self) -> FrameType | None:
        """The innermost call of a pipeline on this thread's stack; None outside any."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not self._is_call(frame):
            frame = frame.f_back
        return frame

    def anywhere_of(self, pipeline: Any, besides: Collection[int]) -> bool:
        """Return whether a call of this very pipeline is on the stack of a thread not among these."""
        kinds = {code for base in type(pipeline).__mro__ if (code := _code(base)) is not None}

        def is_call(frame: FrameType) -> bool:
            return frame.f_code in kinds and frame.f_locals.get("self") is pipeline

        with _no_collection():
            threads = sys._current_frames().keys() - set(besides)
        return any(_is_on(thread, is_call) for thread in threads)

    def _is_call(self, frame: FrameType) -> bool:
        code = frame.f_code
        known = self._known.get(id(code))
        if known is not None:
            return known[1]
        if code.co_name != "__call__":
            return False
        verdict = any(_code(kind) is code for kind in _pipelines())
        self._known[id(code)] = code, verdict
        return verdict


class Home:
    """The pipeline call that a run belongs to: the innermost one when it is made.

    Its frame is not kept, since that would keep what it and its callers hold: it is known again by
    where it lies, what it runs, and from where it was called.

    Attributes:
        known: whether there is one; there is none for a loop of the user's own, which nothing tells
            the end of.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        frame = calls.innermost()
        self.known = frame is not None
        self._mark: Mark = () if frame is None else _mark(frame)
        self._pauses = frame is not None and bool(frame.f_code.co_flags & _PAUSES)
        self._thread = threading.get_ident()
        steps = None if self.known else _innermost_that_pauses()
        self._steps: Mark = () if steps is None else _mark(steps)
        around = frame or steps
        if around is not None and around.f_code.co_flags & inspect.CO_COROUTINE:
            _ANNOUNCED.set(self)

    def settle(self) -> None:
        """The run's first call is made: a frame that pauses is the loop's only if the call is in it too."""
        if self._steps and not (_on_this_stack(self._steps) or self._handed_over):
            self._steps = ()

    @property
    def _handed_over(self) -> bool:
        """Whether the run is in a coroutine that has this call made in another thread, and awaits it."""
        return not self.of_this_thread and _ANNOUNCED.get() is self

    @property
    def of_this_thread(self) -> bool:
        """Whether the run was announced in this thread."""
        return self._thread == threading.get_ident()

    @property
    def here(self) -> bool:
        """Whether the innermost pipeline call on this thread's stack is the run's own.

        Of a loop of the user's own: whether this is its thread, and no pipeline's call; of one that is a
        generator or a coroutine, whether that is on the stack of whichever thread.
        """
        frame = self._calls.innermost()
        if frame is None and self._handed_over:
            return True
        if not self.known and self._steps:
            return frame is None and _on_this_stack(self._steps)
        if not self.known:
            return frame is None and self.of_this_thread
        return frame is not None and self._is(frame)

    @property
    def around_here(self) -> bool:
        """Whether the call is on this thread's stack, or a loop of the user's own may be."""
        return self.of_this_thread and (not self.known or self._on_the_stack)

    @property
    def alive(self) -> bool:
        """Whether the call has not ended yet; of one that can pause, or of a loop, nothing tells it."""
        return self._pauses or not self.known or self._on_the_stack

    @property
    def goes_on(self) -> bool:
        """Whether the call has certainly not ended.

        One that can pause is looked for among all objects, which takes about a tenth of a second.
        """
        return _is_held(self._mark) if self._pauses else self._on_the_stack

    @property
    def _on_the_stack(self) -> bool:
        if self.of_this_thread:
            return _on_this_stack(self._mark)
        return _is_on(self._thread, self._is)

    def _is(self, frame: FrameType) -> bool:
        return bool(self._mark) and id(frame) == self._mark[0] and _mark(frame) == self._mark


def _is_on(thread: int, wanted: Callable[[FrameType], bool]) -> bool:
    """Return whether a frame is on the stack of another thread, which runs on meanwhile.

    A frame that has ended since has lost its callers, so a stack is looked through again before it is
    taken not to have the frame.
    """
    with _no_collection():
        for _ in range(_LOOKS):
            frame = sys._current_frames().get(thread)
            while frame is not None and not wanted(frame):
                frame = frame.f_back
            if frame is not None:
                return True
    return False


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the collector away while frames of other threads are looked at.

    Until Python 3.12 it runs when the object for such a frame is allocated, and what it collects may let
    the other thread go on, which ends the very frame.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _innermost_that_pauses() -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_code.co_flags & _PAUSES:
        frame = frame.f_back
    return frame


def _on_this_stack(mark: Mark) -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not (id(frame) == mark[0] and _mark(frame) == mark):
        frame = frame.f_back
    return frame is not None


def _is_held(mark: Mark) -> bool:
    """Return whether somebody holds a generator or a coroutine of this frame; one that ended has none."""
    for thing in gc.get_objects():
        code, frame = _PAUSING.get(type(thing), ("", ""))
        if code and getattr(thing, code) is mark[1] and id(getattr(thing, frame)) == mark[0]:
            return True
    return False


def _mark(frame: FrameType) -> Mark:
    code, back = frame.f_code, frame.f_back
    if code.co_flags & _PAUSES or back is None:  # what pauses is called from many places
        return id(frame), code
    return id(frame), code, id(back), back.f_lasti


def _pipelines() -> Iterator[type]:
    """Every pipeline class there is, also one made in a function."""
    root = pipeline_class()
    waiting: list[type] = [] if root is None else [root]
    while waiting:
        kind = waiting.pop()
        yield kind
        waiting.extend(kind.__subclasses__())


def _code(kind: type) -> CodeType | None:
    """What a class's own ``__call__`` runs, under its decorators."""
    own: Any = vars(kind).get("__call__")
    return getattr(inspect.unwrap(own), "__code__", None) if own is not None else None
