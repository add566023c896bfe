"""Find the pipeline call that a run belongs to on the stack, and whether it goes on."""

from __future__ import annotations

import gc
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any

from otcache_diffusers.compat import is_modular, pipeline_classes

_PAUSES = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR

#: The types that can pause, and the attributes of their code and frame.
_PAUSING: dict[type, tuple[str, str]] = {
    GeneratorType: ("gi_code", "gi_frame"),
    CoroutineType: ("cr_code", "cr_frame"),
    AsyncGeneratorType: ("ag_code", "ag_frame"),
}
#: How often the stack of a thread that runs on is searched.
_LOOKS = 5
#: Identifies a frame without keeping it.
Mark = tuple[Any, ...]
#: The run that a coroutine announced, in its context and in what ``asyncio.to_thread`` makes of that.
_ANNOUNCED: ContextVar[PipelineCall | None] = ContextVar("otcache_announced", default=None)
#: The calls that were noted, and of which pipeline each is; by thread, the innermost last.
_NOTED: dict[int, tuple[tuple[Mark, weakref.ref[Any]], ...]] = {}


class PipelineCalls:
    """Find the calls of pipelines on the stack.

    A pipeline's call is a frame that runs the ``__call__`` of a pipeline class, or of a base of the
    class given. Its locals are not read: a pipeline itself reports its calls (``note``), on their threads.

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
        """Return the innermost call of a pipeline on this thread's stack; None outside any."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not self._is_call(frame):
            frame = frame.f_back
        return frame

    def note(self, pipeline: Any) -> bool:
        """Note that the innermost call on this thread's stack is of this pipeline; return whether one is."""
        frame = self.innermost()
        if frame is None:
            return False
        mark, thread = _mark(frame), threading.get_ident()
        around = [c for c in _NOTED.get(thread, ()) if c[0] != mark and _on_this_stack(c[0])]
        _NOTED[thread] = (*around, (mark, weakref.ref(pipeline)))
        return True

    def other_pipeline(self, pipeline: Any, all_noted: bool) -> str:
        """Name the class of the innermost call on this thread's stack, if it is another pipeline's.

        Args:
            pipeline: its own calls are distinguished from others by their class.
            all_noted: its own calls were noted, which distinguishes them within its class too.

        Returns:
            "" if there is no call, or one of the pipeline may be on the stack.
        """
        frame = self.innermost()
        codes = {_code(base) for base in type(pipeline).__mro__}
        if frame is not None and is_modular(pipeline) and frame.f_code in codes:
            # All modular pipelines have one ``__call__``, on this thread, whose locals outlive the run.
            called = frame.f_locals.get("self")
            return "" if called is pipeline else type(called).__name__
        own = [mark for mark, whose in _NOTED.get(threading.get_ident(), ()) if whose() is pipeline]
        if frame is None or any(map(_on_this_stack, own)):
            return ""
        if not all_noted and _first_frame(lambda frame: frame.f_code in codes) is not None:
            return ""
        return frame.f_code.co_qualname.rpartition(".")[0].rpartition(".")[2]

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


class PipelineCall:
    """The pipeline call that a run belongs to: the innermost one when this is made.

    Its frame is not kept, since that would keep what it and its callers hold: it is identified by its
    address, its code, and where it was called.

    Attributes:
        known: whether there is one; there is none for a loop of the user's own, whose end is not seen.
    """

    def __init__(self, calls: PipelineCalls) -> None:
        self._calls = calls
        frame = calls.innermost()
        self.known = frame is not None
        self._mark: Mark = () if frame is None else _mark(frame)
        self._pauses = frame is not None and bool(frame.f_code.co_flags & _PAUSES)
        self._thread = threading.get_ident()
        steps = (
            None
            if self.known
            else _first_frame(lambda frame: bool(frame.f_code.co_flags & _PAUSES))
        )
        self._steps: Mark = () if steps is None else _mark(steps)
        around = frame or steps
        if around is not None and around.f_code.co_flags & inspect.CO_COROUTINE:
            _ANNOUNCED.set(self)

    def settle(self) -> None:
        """Note the run's first call: a frame that pauses is the loop's only if the call is in it too."""
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
        generator or a coroutine, whether that is on the stack of any thread.
        """
        frame = self._calls.innermost()
        if frame is None and self._handed_over:
            return True
        if not self.known and self._steps:
            return frame is None and _on_this_stack(self._steps)
        if not self.known:
            return frame is None and self.of_this_thread
        return frame is not None and _is_marked(frame, self._mark)

    @property
    def around_here(self) -> bool:
        """Whether the call is on this thread's stack, or a loop of the user's own may be."""
        return self.of_this_thread and (not self.known or self._on_the_stack)

    @property
    def alive(self) -> bool:
        """Whether the call has not ended yet; True if it can pause, or is a loop's, whose end is not seen."""
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
        return _is_on(self._thread, self._mark)


def under_way(pipeline: Any, besides: Collection[int]) -> bool:
    """Return whether a noted call of this pipeline is on the stack of a thread not among these."""
    return any(
        _is_on(thread, mark)
        for thread, noted in tuple(_NOTED.items())
        for mark, whose in noted
        if thread not in besides and whose() is pipeline
    )


def _is_on(thread: int, mark: Mark) -> bool:
    """Return whether a frame is on the stack of another thread, which runs on meanwhile.

    A frame that has ended since has lost its callers, so a stack is searched again before the frame is
    taken to be absent. Nothing is read of the frames but their marks: reading their locals would release
    the last copies, which lets the other thread go on and end the frame.
    """
    with NO_COLLECTION:
        for _ in range(_LOOKS):
            frame = sys._current_frames().get(thread)
            while frame is not None and not _is_marked(frame, mark):
                frame = frame.f_back
            if frame is not None:
                return True
    return False


class _NoCollection:
    """Keep the garbage collector off while frames of other threads are looked at, until the last look ends.

    Until Python 3.12 it runs when the object for such a frame is allocated, and what it collects may let
    the other thread go on, which ends the very frame.
    """

    def __init__(self) -> None:
        # Reentrant, since what is collected while it is taken may look too.
        self._lock, self._looks, self._enabled = threading.RLock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if not self._looks:
                self._enabled = gc.isenabled()
                gc.disable()
            self._looks += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._looks -= 1
            if not self._looks and self._enabled:
                gc.enable()


NO_COLLECTION = _NoCollection()


def _first_frame(matches: Callable[[FrameType], bool]) -> FrameType | None:
    """Return the innermost frame on this thread's stack that matches."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not matches(frame):
        frame = frame.f_back
    return frame


def _on_this_stack(mark: Mark) -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_marked(frame, mark):
        frame = frame.f_back
    return frame is not None


def _is_held(mark: Mark) -> bool:
    """Return whether a generator or a coroutine of this frame exists; one that ended has none."""
    with NO_COLLECTION:
        for thing in gc.get_objects():
            code, frame = _PAUSING.get(type(thing), ("", ""))
            if code and getattr(thing, code) is mark[1] and id(getattr(thing, frame)) == mark[0]:
                return True
    return False


def _is_marked(frame: FrameType, mark: Mark) -> bool:
    return bool(mark) and id(frame) == mark[0] and _mark(frame) == mark


def _mark(frame: FrameType) -> Mark:
    code, back = frame.f_code, frame.f_back
    if code.co_flags & _PAUSES or back is None:  # what pauses is called from many places
        return id(frame), code
    return id(frame), code, id(back), back.f_lasti


def _pipelines() -> Iterator[type]:
    """Yield every pipeline class there is, also one made in a function."""
    waiting = pipeline_classes()
    while waiting:
        kind = waiting.pop()
        yield kind
        waiting.extend(kind.__subclasses__())


def _code(kind: type) -> CodeType | None:
    """Return the code of a class's own ``__call__``, under its decorators."""
    own: Any = vars(kind).get("__call__")
    return getattr(inspect.unwrap(own), "__code__", None) if own is not None else None
