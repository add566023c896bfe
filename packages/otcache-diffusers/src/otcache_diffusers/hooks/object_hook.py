"""Attach to a denoiser that is an object and no torch module, on the object, and leave no trace.

Pipelines of engines have such: optimum's for ONNX Runtime and OpenVINO, and diffusers' own for ONNX.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from otcache_core.errors import ExecutionError
from otcache_diffusers.compat import is_pipeline
from otcache_diffusers.hooks.arguments import Arguments, parameters_of
from otcache_diffusers.hooks.trees import extents, flatten, overlap, owned, tensors, unflatten

#: (context, arguments, compute) -> output
Handle = Callable[[str, Arguments, Callable[[], Any]], Any]
#: Flags of a type: Py_TPFLAGS_IMMUTABLETYPE and Py_TPFLAGS_BASETYPE.
_IMMUTABLE, _BASE = 1 << 8, 1 << 10
#: Sets the class of an object, whatever ``__setattr__`` and ``__class__`` its class has.
_set_class: Callable[[Any, Any], None] = vars(object)["__class__"].__set__


def is_denoiser(value: Any) -> bool:
    """Return whether a pipeline's attribute can be its denoiser: a module, or an object that is called."""
    if isinstance(value, nn.Module):
        return True
    return callable(value) and not isinstance(value, type) and not is_pipeline(value)


def unattachable(denoiser: Any) -> str:
    """Say why a denoiser of a pipeline cannot be attached to; "" if it can."""
    flags = type(denoiser).__flags__
    if isinstance(denoiser, nn.Module) or (flags & _BASE and not flags & _IMMUTABLE):
        return ""
    return (
        "the denoiser of a pipeline must be a torch module or an object of a class written in Python, got "
        f"a {type(denoiser).__name__}: write a class whose __call__ calls it"
    )


class CallContexts:
    """The ``cache_context`` of a denoiser that each thread is in.

    Attributes:
        here: has the ``name`` of this thread's, unless it never was in one; "" outside.
    """

    def __init__(self) -> None:
        self.here = threading.local()  # several threads may be in contexts of several pipelines

    def around(
        self, original: Callable[..., Any], /, name: str, *args: Any, **kwargs: Any
    ) -> AbstractContextManager[None]:
        """Return the denoiser's own context, inside which its name is known."""
        return self._inside(name, original(name, *args, **kwargs))

    @contextmanager
    def _inside(self, name: str, context: AbstractContextManager[Any]) -> Iterator[None]:
        outer, self.here.name = getattr(self.here, "name", ""), name
        try:
            with context:
                yield
        finally:
            self.here.name = outer


class ObjectHook:
    """Route every call of one object through ``handle`` while entered.

    Python looks up ``__call__`` on the class. So the object is of a subclass meanwhile, of the same name:
    it stays the very object, with its attributes, in every pipeline that holds it, and ``__class__`` and
    ``isinstance`` answer as before. Copies and pickles are of the class it had.

    Args:
        module: the denoiser.
        handle: gets the name of the pipeline's ``cache_context`` ("" outside one), the arguments, and
            what computes the output.

    Attributes:
        module: the denoiser.
        contexts: those of its calls.
    """

    def __init__(self, module: Any, handle: Handle) -> None:
        self.module, self.contexts = module, CallContexts()
        self._handle, self._names = handle, parameters_of(module)
        self._habits = EngineHabits()
        self._class: type | None = None

    def __enter__(self) -> ObjectHook:
        kind = type(self.module)
        try:
            made = _subclass(kind, self)
            _set_class(self.module, made)
        except TypeError as error:  # its base is written in C, or its metaclass refuses
            reason = unattachable(self.module) or f"{kind.__name__} cannot be attached to: {error}"
            raise ExecutionError(f"{reason}.") from error
        self._class = made
        return self

    def __exit__(self, *error: object) -> None:
        made, self._class = self._class, None
        if made is not None and type(self.module) is made:
            _set_class(self.module, made.__base__)

    def refresh(self) -> None:
        """Attach again if the object was given another class meanwhile; used between runs."""
        self._habits = EngineHabits()
        if type(self.module) is not self._class:
            self.__exit__()
            self.__enter__()

    def called(
        self, owner: Any, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return the output of a call.

        Args:
            owner: what is called: the denoiser, or a copy of it, whose calls pass unchanged.
            method: the owner's method.
            args: positional arguments.
            kwargs: named ones.
        """
        if owner is not self.module or self._class is None:
            return method(*args, **kwargs)
        call = EngineCall(self._habits, functools.partial(method, *args, **kwargs), args, kwargs)
        arguments = Arguments(args, kwargs, self._names)
        context = getattr(self.contexts.here, "name", "")
        return call.returned(self._handle(context, arguments, call.compute))


def _subclass(kind: type, hook: ObjectHook) -> type:
    """Return a subclass of the same layout, whose calls a hook answers."""

    def wrapped(name: str, around: Callable[..., Any]) -> Callable[..., Any]:
        original = getattr(kind, name)

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return around(self, functools.partial(original, self), args, kwargs)

        return functools.wraps(original)(method)

    def context(owner: Any, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return hook.contexts.around(method, *args, **kwargs)

    def plain(owner: Any, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return _of_class(method(*args, **kwargs), made, kind)

    arounds = {"__call__": hook.called, "cache_context": context}
    arounds |= dict.fromkeys(("__copy__", "__deepcopy__", "__reduce_ex__"), plain)
    methods = {n: wrapped(n, around) for n, around in arounds.items() if hasattr(kind, n)}
    own = {n: getattr(kind, n) for n in ("__module__", "__qualname__", "__doc__")}
    own |= {"__slots__": (), "__class__": property(lambda self: kind)}
    made: type = type(kind)(kind.__name__, (kind,), own | methods)
    return made


def _of_class(copied: Any, made: type, kind: type) -> Any:
    """Return a copy, or how one is made, with an object's own class in place of its subclass."""
    if type(copied) is made:
        _set_class(copied, kind)
    if not isinstance(copied, tuple):
        return copied
    function, args, *state = copied
    return (
        kind if function is made else function,
        tuple(kind if x is made else x for x in args),
        *state,
    )


@dataclass
class EngineHabits:
    """What an engine does with the memory of its calls, as far as the run has shown.

    Attributes:
        overwrites: whether it may write its output into an argument.
        arrays: which leaves of its output are numpy arrays.
    """

    overwrites: bool = True
    arrays: tuple[int, ...] = ()


class EngineCall:
    """One call of an engine, made to look like that of a torch module.

    Its output is given as tensors, and goes back to the sampler as it came. optimum's ONNX Runtime with
    IO binding writes its output over the state, which a skipped call would not do and a forecast of
    velocities needs: the state is put back, and the output given in memory of its own.

    Args:
        habits: of the engine; updated.
        work: computes the output.
        args: positional arguments of the call.
        kwargs: named ones.
    """

    def __init__(
        self, habits: EngineHabits, work: Callable[[], Any], args: Any, kwargs: dict[str, Any]
    ) -> None:
        self._habits, self._work, self._given = habits, work, (args, kwargs)
        self._made: tuple[Any, Any] | None = None

    def compute(self) -> Any:
        """Call the engine and return its output, with tensors in place of numpy arrays."""
        given = (
            [x for x in tensors(self._given) if _is_writable(x)] if self._habits.overwrites else []
        )
        before = [x.clone() for x in given]
        output = self._work()
        written = [
            n for n, x in enumerate(given) if overlap(extents(tensors(output)), extents([x]))
        ]
        self._habits.overwrites = bool(written)
        if written:
            output = owned(output)
            with torch.no_grad():
                for n in written:
                    given[n].copy_(before[n])
        leaves, form = flatten(output, (np.ndarray,))
        self._habits.arrays = tuple(n for n, x in enumerate(leaves) if isinstance(x, np.ndarray))
        if not self._habits.arrays:
            return output
        self._made = output, unflatten([_tensor(leaf) for leaf in leaves], form)
        return self._made[1]

    def returned(self, output: Any) -> Any:
        """Return what goes to the sampler: the engine's own output if it is that, with arrays as it has."""
        if self._made is not None and output is self._made[1]:
            return self._made[0]
        if not self._habits.arrays:
            return output
        leaves, form = flatten(output, (np.ndarray,))
        arrays = {n: _array(leaves[n]) for n in self._habits.arrays}
        return unflatten([arrays.get(n, leaf) for n, leaf in enumerate(leaves)], form)


def _is_writable(x: Tensor) -> bool:
    """Return whether it may be a state with an output written over it: of numbers, each in its own place."""
    if not x.is_floating_point() or x.layout != torch.strided:
        return False
    return all(step or size == 1 for size, step in zip(x.shape, x.stride(), strict=True))


def _tensor(leaf: Any) -> Any:
    """Return the tensor of a numpy array, in its memory if it can be; what torch has no type for as it is."""
    if not isinstance(leaf, np.ndarray):
        return leaf
    try:
        return torch.from_numpy(leaf if leaf.flags.writeable else leaf.copy())
    except (TypeError, ValueError):
        return leaf


def _array(leaf: Any) -> Any:
    """Return a copy of a tensor as a numpy array: a forecast may be what is kept for later steps."""
    return leaf.detach().clone().numpy(force=True) if isinstance(leaf, Tensor) else leaf
