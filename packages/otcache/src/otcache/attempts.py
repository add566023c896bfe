"""Results instead of exceptions, for programs that serve others."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload

from otcache_core import OtcacheError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Done(Generic[T]):
    """What a call returned.

    Args:
        value: its result.
    """

    value: T
    ok: Literal[True] = True
    error: None = None


@dataclass(frozen=True)
class Failed:
    """Why a call has no result.

    Args:
        error: of the kind that would have been raised; its text says what to do. It holds nothing of the
            call: the local variables of its traceback are gone, so that it may be kept.
    """

    error: OtcacheError
    ok: Literal[False] = False
    value: None = None


#: ``ok``, or a ``match``, shows mypy which of the two it is.
Attempt: TypeAlias = Done[T] | Failed


def attempt(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Attempt[T]:
    """Call a function of otcache, and return what it raises for its user to read.

    Args:
        function: any that may raise :class:`~otcache_core.OtcacheError`.
        args: its arguments.
        kwargs: its named arguments.

    Returns:
        :class:`Done` with the result, or :class:`Failed` with the error; both have ``ok``, ``value`` and
        ``error``. Whatever else is raised is raised: it is a defect, or an interrupt.

    Examples:
        >>> read = attempt(int, "8")
        >>> read.ok, read.value
        (True, 8)
        >>> policy = otcache.attempt(otcache.load_policy, "flux.otcache")  # doctest: +SKIP
        >>> print(policy.error)  # doctest: +SKIP
    """
    outside = sys.exc_info()[1]  # what a caller is handling is the caller's
    try:
        return Done(function(*args, **kwargs))
    except OtcacheError as error:
        _forget_locals(error, outside)
        return Failed(error)


class Attemptable(Protocol[P, T]):
    """A function that takes ``throw=False``.

    Type checkers know what it returns either way, and check its arguments where ``throw`` is omitted;
    :func:`attempt` has both.
    """

    @overload
    def __call__(self, *args: Any, throw: Literal[False], **kwargs: Any) -> Attempt[T]: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T: ...


def attemptable(function: Callable[P, T]) -> Attemptable[P, T]:
    """Give a function the keyword ``throw``: with ``throw=False`` it is called by :func:`attempt`."""

    @wraps(function)
    def called(*args: Any, throw: bool = True, **kwargs: Any) -> Any:
        return function(*args, **kwargs) if throw else attempt(function, *args, **kwargs)

    called.__signature__ = _with_throw(inspect.signature(function))  # type: ignore[attr-defined]  # is read by inspect
    return cast("Attemptable[P, T]", called)


def _with_throw(signature: inspect.Signature) -> inspect.Signature:
    throw = inspect.Parameter(
        "throw", inspect.Parameter.KEYWORD_ONLY, default=True, annotation="bool"
    )
    known = list(signature.parameters.values())
    at = len(known) - any(p.kind is p.VAR_KEYWORD for p in known)
    return signature.replace(parameters=[*known[:at], throw, *known[at:]])


def _forget_locals(error: BaseException, outside: BaseException | None) -> None:
    """Let go of what the frames of an error hold, and of all that led to it: pipelines, runs, images."""
    seen, waiting = {id(outside)}, [error]
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
