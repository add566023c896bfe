"""What stays on a target until it is taken off: handles, and contexts that were entered."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing, suppress
from typing import Any, Protocol, TypeVar

from otcache_core import ExecutionError
from otcache_core.contracts import RunHandle
from otcache_core.contracts.execution import NOTHING_RAN
from otcache_core.copy_guard import CopyGuard
from otcache_core.notices import notify

_NAME = "_otcache"
F = TypeVar("F", bound=Callable[..., Any])


class Attached(Protocol):
    """A handle of ``otcache.enable``, or a context of ``otcache.accelerate`` that was entered."""

    @property
    def run(self) -> RunHandle | None:
        """The handle of the runs at present; None where every step is computed."""

    def remove(self) -> None:
        """Take everything off the target."""


class _Shelf:
    """Holds what is on one target, in the ``__dict__`` of that; copies and pickles of it have none.

    Nothing else holds it, so that what is on a target goes with the target.
    """

    def __init__(self, target: Any) -> None:
        self.things: list[Attached] = []
        self._target = target
        self._copies = CopyGuard(target, self._strip)

    def put(self, thing: Attached) -> None:
        if not self.things:
            self._copies.__enter__()
            vars(self._target)[_NAME] = self
        self.things.append(thing)

    def drop(self, thing: Attached) -> None:
        self.things.remove(thing)
        if not self.things:
            self._strip(vars(self._target))
            self._copies.__exit__()

    def _strip(self, state: dict[str, Any]) -> None:
        if state.get(_NAME) is self:
            del state[_NAME]


def enabled(target: Any) -> Attached | None:
    """Return what is on a target: the handle of ``enable``, or the context of ``accelerate`` entered last.

    A handle that nobody keeps stays on its target and is found here; so is a context that was entered and
    never left. Either has ``run`` and ``remove()``.

    Args:
        target: the very pipeline, ``otcache.loop(...)`` or module that was given.

    Returns:
        None if nothing is on it.

    Examples:
        >>> otcache.enable(pipe, policy, budget=8)  # doctest: +SKIP
        >>> otcache.enabled(pipe).remove()  # doctest: +SKIP
    """
    things = on(target)
    return things[-1] if things else None


def on(target: Any) -> list[Attached]:
    """Return all that is on a target, in the order it was put there."""
    shelf = getattr(target, "__dict__", {}).get(_NAME)
    return list(shelf.things) if isinstance(shelf, _Shelf) else []


def put_on(target: Any, thing: Attached) -> None:
    """Keep something on a target, where the target can hold it."""
    known = getattr(target, "__dict__", None)
    if known is not None:
        shelf = known.get(_NAME)
        (shelf if isinstance(shelf, _Shelf) else _Shelf(target)).put(thing)


def take_off(target: Any, thing: Attached) -> None:
    """Let go of something, if it is kept."""
    shelf = getattr(target, "__dict__", {}).get(_NAME)
    if isinstance(shelf, _Shelf) and thing in shelf.things:
        shelf.drop(thing)


class Accelerated(AbstractContextManager[RunHandle]):
    """A context in which a target skips steps, or a decorator, which enters one of its own at each call.

    One that is entered and never left stays on while its target lives: ``otcache.enabled(target)`` finds
    it. A context that is left without any run of the target says so.

    Args:
        target: what is accelerated.
        attach: makes the executor's context, anew at each entry.
        all_computed: whether nothing is to be skipped.
    """

    def __init__(
        self,
        target: Any,
        attach: Callable[[], AbstractContextManager[RunHandle]],
        all_computed: bool,
    ) -> None:
        self._target, self._attach, self._all_computed = target, attach, all_computed
        self._context: AbstractContextManager[RunHandle] | None = None
        self._run: RunHandle | None = None

    @property
    def run(self) -> RunHandle | None:
        """The handle of the runs since it was entered; None outside."""
        return self._run

    def __enter__(self) -> RunHandle:
        if any(not isinstance(thing, Accelerated) for thing in on(self._target)):
            kind = type(self._target).__name__
            raise ExecutionError(
                f"{kind} is enabled already: run it in handle.request(budget), or call "
                "otcache.enabled(pipe).remove() first."
            )
        context = self._attach()
        run = context.__enter__()
        self._context, self._run = context, run
        put_on(self._target, self)
        return run

    def __exit__(self, *error: Any) -> bool | None:
        context, run = self._context, self._run
        self._context = self._run = None
        if context is None or run is None:
            return None
        take_off(self._target, self)
        swallowed = context.__exit__(*error)
        if error[0] is None and run.report.idle and not self._all_computed:
            notify(NOTHING_RAN)
        return swallowed

    def remove(self) -> None:
        """Leave the context; may be called twice.

        Raises:
            ExecutionError: while a run is under way.
        """
        if self._run is not None and self._run.running:
            raise ExecutionError(
                "a run must end before its context is left, got remove() inside it: call it after the run."
            )
        self.__exit__(None, None, None)

    def __call__(self, function: F) -> F:
        """Decorate a function, also one that is a generator or a coroutine: it is accelerated to its end."""
        wrapper: Any = _around(function, lambda: Accelerated(*self._made_of))
        return wrapper  # type: ignore[no-any-return]

    @property
    def _made_of(self) -> tuple[Any, Callable[[], AbstractContextManager[RunHandle]], bool]:
        return self._target, self._attach, self._all_computed


def _around(function: Any, made: Callable[[], Accelerated]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with made():
                return await function(*args, **kwargs)

        return awaited
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def streamed(*args: Any, **kwargs: Any) -> Any:
            with made():
                async with aclosing(function(*args, **kwargs)) as steps:  # its end is inside too
                    given = None
                    with suppress(StopAsyncIteration):
                        while True:
                            given = yield await steps.asend(given)

        return streamed
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generated(*args: Any, **kwargs: Any) -> Any:
            with made():
                return (yield from function(*args, **kwargs))

        return generated

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with made():
            return function(*args, **kwargs)

    return called
