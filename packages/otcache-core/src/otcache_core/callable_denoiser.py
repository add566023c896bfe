"""A denoiser that is not a torch module: any callable, behind a proxy that the loop calls instead."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, final

from otcache_core.errors import ExecutionError, OtcacheError, expected

#: (positional arguments, named ones, function that computes the output) -> output
Replacement = Callable[[tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]

_OWN = ("__wrapped__", "_otcache_replacement", "_otcache_calls", "__weakref__")


@final
class CallableDenoiser:
    """Passes calls on to a callable, or to what is attached in its place.

    Without an attachment calls pass unchanged. Attributes, also when they are set or deleted, and the
    signature are those of the callable. Copies and pickles have nothing attached.

    Args:
        wrapped: the callable.
    """

    __slots__ = _OWN
    __wrapped__: Callable[..., Any]
    _otcache_replacement: Replacement | None
    _otcache_calls: int

    def __init__(self, wrapped: Callable[..., Any]) -> None:
        object.__setattr__(self, "__wrapped__", wrapped)
        object.__setattr__(self, "_otcache_replacement", None)
        object.__setattr__(self, "_otcache_calls", 0)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the callable, or of what is attached."""
        object.__setattr__(self, "_otcache_calls", self._otcache_calls + 1)
        replacement, wrapped = self._otcache_replacement, self.__wrapped__
        if replacement is None:
            return wrapped(*args, **kwargs)
        return replacement(args, kwargs, lambda: wrapped(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        if name in _OWN:  # a copy that has not been filled yet
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__wrapped__, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__wrapped__, name)

    def __repr__(self) -> str:
        return f"CallableDenoiser({self.__wrapped__!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return CallableDenoiser, (self.__wrapped__,)

    def __deepcopy__(self, memo: dict[int, Any]) -> CallableDenoiser:
        return CallableDenoiser(copy.deepcopy(self.__wrapped__, memo))


def attach(denoiser: CallableDenoiser, replacement: Replacement) -> None:
    """Let a replacement answer every call of a denoiser.

    Raises:
        ExecutionError: if something is attached already.
    """
    if denoiser._otcache_replacement is not None:
        raise ExecutionError(
            f"{name_of(denoiser)} is already accelerated or recorded by otcache: leave that context "
            "first, or make a second loop with a denoiser of its own."
        )
    object.__setattr__(denoiser, "_otcache_replacement", replacement)


def detach(denoiser: CallableDenoiser) -> None:
    """Let calls pass unchanged again."""
    object.__setattr__(denoiser, "_otcache_replacement", None)


def calls_of(denoiser: CallableDenoiser) -> int:
    """Count the calls so far, attached or not."""
    return denoiser._otcache_calls


def name_of(denoiser: Any) -> str:
    """Return a callable's name for messages: a function's own, a method's with its class, else the class."""
    wrapped = denoiser.__wrapped__ if isinstance(denoiser, CallableDenoiser) else denoiser
    while type(wrapped).__name__ == "partial" and hasattr(wrapped, "func"):
        wrapped = wrapped.func
    name = getattr(wrapped, "__name__", None)
    if not isinstance(name, str):
        return type(wrapped).__name__
    owner = getattr(wrapped, "__self__", None)
    bound = owner is not None and hasattr(wrapped, "__func__")
    return f"{type(owner).__name__}.{name}" if bound else name


def is_module(value: Any) -> bool:
    """Return whether a value is a ``torch.nn.Module``, without importing torch."""
    kinds = type(value).__mro__
    return any((k.__module__, k.__name__) == ("torch.nn.modules.module", "Module") for k in kinds)


def as_denoiser(value: Any) -> Any:
    """Return a module as it is, and any other callable behind a proxy.

    Raises:
        OtcacheError: if it cannot be called, or is a class.
    """
    if isinstance(value, CallableDenoiser) or is_module(value):
        return value
    if isinstance(value, type):
        advice = f"make an instance, {value.__name__}(...)."
        raise OtcacheError(expected("denoiser", value, "a module or a callable, no class", advice))
    if not callable(value):
        wanted = "a torch.nn.Module, or a callable that sample_fn calls as loop.denoiser(...)"
        raise OtcacheError(expected("denoiser", type(value).__name__, wanted))
    return CallableDenoiser(value)
