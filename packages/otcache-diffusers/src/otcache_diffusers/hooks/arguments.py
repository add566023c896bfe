"""Find the state and the time among the arguments of a denoiser call."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from otcache_diffusers.hooks.trees import first_tensor, tensors

#: Usual names of the time argument.
TIME_NAMES = (
    *("timestep", "timesteps", "t", "sigma", "time", "times"),
    *("sigmas", "noise_level", "noise_levels", "log_snr"),
)
_TIMES = frozenset(TIME_NAMES)


class ArgumentPlace(NamedTuple):
    """Which array among the arguments of a call; it holds for later calls of the same denoiser.

    Attributes:
        argument: position, or name if it was named.
        leaf: which of the arrays of that argument, if it is a list or a dictionary.
    """

    argument: int | str
    leaf: int = 0


@dataclass(frozen=True)
class Arguments:
    """The arguments of one denoiser call.

    Args:
        args: positional ones.
        kwargs: named ones; the very dictionary the call is made with.
        names: of the denoiser's positional parameters, as far as it has them.
    """

    args: Sequence[Any]
    kwargs: dict[str, Any]
    names: Sequence[str] = ()

    def replace(self, fresh: Mapping[int, Tensor]) -> None:
        """Put other tensors into the named arguments, by the ``id`` of those they replace."""
        swap = partial(pytree.tree_map_only, Tensor, lambda leaf: fresh.get(id(leaf), leaf))
        self.kwargs.update({name: swap(value) for name, value in self.kwargs.items()})

    @property
    def state(self) -> Tensor | None:
        """The sampler's state, more or less processed: the first tensor argument that is not a time.

        A tensor of one number per sample is taken for a time, or a class, if there is a larger one; one
        that does not float, only if no other does.
        """
        place = self._state_place()
        found = None if place is None else self._array(place)
        return found if isinstance(found, Tensor) else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the state, in any order of arguments; of a list of tensors its length first."""
        place = self._state_place()
        if place is None:
            return _outer(next((value for _, value in self._given()), None))
        return self.shape_at(place) or ()

    @property
    def candidates(self) -> list[ArgumentPlace]:
        """The places of floating arguments that are not times."""
        return [
            place for place, x in self._arrays() if _floats(x) and not self._is_time(place.argument)
        ]

    def state_like(self, output: Any) -> ArgumentPlace | None:
        """Return where the argument is that an output is a prediction about; see :meth:`states_like`.

        Args:
            output: a tensor, or a tree whose first tensor counts.
        """
        wanted = first_tensor(output)
        return None if wanted is None else next(iter(self.states_like(wanted)), None)

    def states_like(self, prediction: Tensor, exact: bool = False) -> list[ArgumentPlace]:
        """Return where floating arguments are that have the shape of a prediction, except times.

        Those of the very shape first; then those smaller in one dimension but the batch's, since an output
        may hold learned variances beside; last those larger in one, with a condition beside the state.

        Args:
            prediction: what the denoiser returned.
            exact: of the very shape only.
        """
        arrays = ((place, self._array(place)) for place in self.candidates)
        floating = [(place, tuple(x.shape)) for place, x in arrays if x is not None]
        wanted = tuple(prediction.shape)
        found = [place for place, shape in floating if shape == wanted]
        if exact:
            return found
        smaller = [place for place, shape in floating if _is_part(shape, wanted)]
        larger = [place for place, shape in floating if _is_part(wanted, shape)]
        return [*found, *smaller, *larger]

    def at(self, place: ArgumentPlace) -> Tensor | None:
        """Return the array at a place that ``state_like`` gave as a tensor, None if there is none."""
        found = self._array(place)
        if isinstance(found, np.ndarray):
            return torch.as_tensor(found)
        return found if isinstance(found, Tensor) else None

    def shape_at(self, place: ArgumentPlace) -> tuple[int, ...] | None:
        """Return the shape of what ``at`` gives, of a list of tensors its length first."""
        argument = place.argument
        if isinstance(argument, int) and argument < len(self.args):
            given = self.args[argument]
            if type(given) is Tensor:  # the usual case, at each call
                return tuple(given.shape)
        found = self._array(place)
        return None if found is None else (*_outer(self._value(place.argument)), *found.shape)

    @property
    def timestep(self) -> Any | None:
        """The time argument, by its usual names, else the second positional one."""
        for name in TIME_NAMES:
            if name in self.kwargs:
                return self.kwargs[name]
        for name in TIME_NAMES:
            if name in self.names[: len(self.args)]:
                return self.args[list(self.names).index(name)]
        return self.args[1] if len(self.args) > 1 else None

    def _state_place(self) -> ArgumentPlace | None:
        others: list[tuple[ArgumentPlace, Any]] = []
        for place, x in self._arrays():
            if _is_wide(x) and _floats(x) and not self._is_time(place.argument):
                return place
            others.append((place, x))
        return max(others, key=self._rank, default=(None, None))[0]

    def _rank(self, candidate: tuple[ArgumentPlace, Any]) -> tuple[bool, bool, int, bool, int]:
        """Order arrays of which none is certain; the first of the highest rank is taken."""
        place, x = candidate
        wide = _is_wide(x)
        size = 0 if wide else int(np.prod(x.shape))
        return not self._is_time(place.argument), wide, size, _floats(x), len(x.shape)

    def _given(self) -> Iterator[tuple[int | str, Any]]:
        yield from enumerate(self.args)
        yield from self.kwargs.items()

    def _arrays(self) -> Iterator[tuple[ArgumentPlace, Any]]:
        for key, value in self._given():
            for leaf, array in enumerate(_arrays_of(value)):
                yield ArgumentPlace(key, leaf), array

    def _array(self, place: ArgumentPlace) -> Any | None:
        arrays = _arrays_of(self._value(place.argument))
        return arrays[place.leaf] if place.leaf < len(arrays) else None

    def _value(self, argument: int | str) -> Any | None:
        """Return an argument, also if it is named in this call and was not when its place was found."""
        if isinstance(argument, int):
            if argument < len(self.args):
                return self.args[argument]
            name = self.names[argument] if argument < len(self.names) else None
            return None if name is None else self.kwargs.get(name)
        if argument in self.kwargs:
            return self.kwargs[argument]
        given = dict(zip(self.names, self.args, strict=False))
        return given.get(argument)

    def _is_time(self, argument: int | str) -> bool:
        if isinstance(argument, int):
            return argument < len(self.names) and self.names[argument] in TIME_NAMES
        return argument in TIME_NAMES


def parameters_of(denoiser: Any) -> tuple[str, ...]:
    """Return the names of the positional parameters of a module, compiled or not, or of a callable."""
    root = getattr(denoiser, "_orig_mod", denoiser)
    call = root.forward if isinstance(root, nn.Module) else root
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # a scripted module has none
        return ()
    return tuple(
        p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    )


def _arrays_of(value: Any) -> list[Any]:
    if isinstance(value, Tensor):
        return [value]
    found: list[Any] = list(tensors(value))
    return found or [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, np.ndarray)]


def _outer(value: Any) -> tuple[int, ...]:
    return (len(value),) if isinstance(value, (list, tuple)) else ()


def _is_wide(x: Any) -> bool:
    """Return whether an array holds more than one number per sample."""
    return any(size != 1 for size in tuple(x.shape)[1:])


def _floats(x: Any) -> bool:
    if isinstance(x, Tensor):
        return x.is_floating_point() or x.is_complex()
    return bool(np.issubdtype(x.dtype, np.inexact))


def _is_part(shape: Sequence[int], whole: Sequence[int]) -> bool:
    """Return whether a shape is the other's but for one dimension, not the first, in which it is smaller."""
    if len(shape) != len(whole):
        return False
    others = [d for d in range(len(shape)) if shape[d] != whole[d]]
    return len(others) == 1 and others[0] > 0 and shape[others[0]] < whole[others[0]]


class Time(NamedTuple):
    """The time of a call.

    Attributes:
        value: a number or a tensor; None if it cannot be found.
        certain: False if it may be something else that is the same at every step, as a class is.
    """

    value: Any
    certain: bool


@final
class TimeArgument:
    """Find the time among the arguments of a denoiser's calls.

    By the usual names of arguments and of parameters. If a denoiser has none of them, a number or a
    vector that comes second is taken for the time, or one that comes first before a larger tensor; it is
    certain unless it is of integers.

    Args:
        denoiser: a module, compiled or not, or any other callable.
    """

    def __init__(self, denoiser: Any) -> None:
        names = parameters_of(denoiser)
        self._place = next((names.index(name) for name in TIME_NAMES if name in names), None)

    def of(self, arguments: Arguments) -> Time:
        """Return the time of a call."""
        if not _TIMES.isdisjoint(arguments.kwargs):
            return Time(arguments.timestep, True)
        if self._place is not None:
            given = dict(enumerate(arguments.args))
            return Time(given.get(self._place), True)
        return _guessed(arguments.args)


def _guessed(args: Sequence[Any]) -> Time:
    first, second = (*args, None, None)[:2]
    if isinstance(second, torch.Tensor) and second.ndim > 1 and _certain(first) is not None:
        return Time(first, bool(_certain(first)))
    if isinstance(second, torch.Tensor):
        return Time(second if second.ndim <= 1 else None, second.is_floating_point())
    return Time(second, isinstance(second, float))


def _certain(value: Any) -> bool | None:
    """Return whether a value floats, as a class does not; None if it is neither a number nor a vector."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() if value.ndim <= 1 else None
    return isinstance(value, float) if isinstance(value, (int, float)) else None
