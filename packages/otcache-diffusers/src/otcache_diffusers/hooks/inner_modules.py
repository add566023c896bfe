"""The torch modules inside a callable that is none itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from otcache_core.callable_denoiser import CallableDenoiser

#: Objects inside one another that are looked into.
_DEPTH = 6


def inner_modules(denoiser: Any) -> list[nn.Module]:
    """Return the modules that a denoiser holds, in the order they are found; of a module itself.

    Looked into are partials, methods, closures, globals that a function names, lists, dictionaries and
    attributes. What compiled code holds (a session of ONNX Runtime) is not seen.

    Args:
        denoiser: a module or any other callable.
    """
    found: list[nn.Module] = []
    seen: dict[int, Any] = {}  # the objects are kept, so that no identity is used twice
    layer = [denoiser]
    for _ in range(_DEPTH):
        inside: list[Any] = []
        for value in layer:
            if id(value) in seen or isinstance(value, (type, ModuleType)):
                continue
            seen[id(value)] = value
            if isinstance(value, nn.Module):
                found.append(value)
            else:
                inside += _inside(value)
        layer = inside
    return found


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, CallableDenoiser):
        return [value.__wrapped__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        return _named_by(value)
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple)):
        return value
    return list(getattr(value, "__dict__", {}).values())


def _named_by(function: FunctionType) -> list[Any]:
    try:
        names = inspect.getclosurevars(function)
    except ValueError:  # a cell that is not filled yet
        return []
    wrapped = getattr(function, "__wrapped__", None)
    return [wrapped, *names.nonlocals.values(), *names.globals.values()]
