"""What a plugin may neither use nor change: its arguments, and the random state of the process."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
#: What a law says where something left another global random state than a plain run does.
RANDOM = (
    "the global random state was used or seeded, beyond what a plain run of the target does: draw from a "
    "generator of your own, as numpy.random.default_rng(seed)"
)


def snapshot(value: Any) -> Any:
    """Return what two equal values have in common, to the bit.

    Arrays count by type, shape and bytes, data by its fields, other objects by their identity.
    """
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if value is None or isinstance(value, str | bytes | int | float | complex | np.generic):
        return type(value).__name__, repr(value)
    if isinstance(value, Mapping):
        return [(repr(key), snapshot(item)) for key, item in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return type(value).__name__, [snapshot(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return type(value).__name__, [(name, snapshot(getattr(value, name))) for name in names]
    if hasattr(type(value), "__struct_fields__"):  # a schedule
        return type(value).__name__, repr(value)
    return type(value).__name__, id(value)


@contextmanager
def unchanged(**arguments: Any) -> Iterator[None]:
    """Assert that none of these values changes, by a single bit.

    Raises:
        AssertionError: naming the one that does.
    """
    before = {name: snapshot(value) for name, value in arguments.items()}
    yield
    for name, value in arguments.items():
        assert snapshot(value) == before[name], f"{name} was changed: work on a copy"


def under_two_random_states(make: Callable[[], T]) -> tuple[T, T]:
    """Make something twice, each time with the global generators in another state.

    The states of ``random``, ``numpy.random`` and, where it is imported, torch's CPU generator are put
    back.

    Raises:
        AssertionError: if one of the generators was used or seeded.
    """
    kept = _states()
    try:
        first, second = (_made(make, seed) for seed in (12345, 54321))
    finally:
        _restore(kept)
    return first, second


def random_state_of(make: Callable[[], object]) -> Any:
    """Return a snapshot of the global random state that something leaves, begun at a fixed one."""
    kept = _states()
    try:
        _seed(12345)
        make()
        return snapshot(_states())
    finally:
        _restore(kept)


def _made(make: Callable[[], T], seed: int) -> T:
    _seed(seed)
    before = _states()
    made = make()
    for name, state in _states().items():
        used = name in before and snapshot(state) != snapshot(before[name])
        assert not used, (
            f"the global random state of {name} was used or seeded: draw from a generator of your own, "
            "as numpy.random.default_rng(seed)"
        )
    return made


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the global state is what this is about
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.random.default_generator.manual_seed(seed)


def _states() -> dict[str, Any]:
    states: dict[str, Any] = {"random": random.getstate(), "numpy.random": np.random.get_state()}  # noqa: NPY002
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.get_rng_state().numpy().copy()
    return states


def _restore(states: Mapping[str, Any]) -> None:
    random.setstate(states["random"])
    np.random.set_state(states["numpy.random"])  # noqa: NPY002
    if "torch" in states:
        torch = sys.modules["torch"]
        torch.set_rng_state(torch.from_numpy(states["torch"]))


@contextmanager
def seeds_of_generators(module: str = "") -> Iterator[list[Any]]:
    """Collect what generators are seeded with; None where one is not seeded.

    Those of ``numpy.random.default_rng``, whoever calls it, and of a module's own ``default_rng``,
    ``RandomState`` and ``random.Random``, by whatever name it has them.

    Args:
        module: name of the plugin's module.
    """
    made: list[Any] = []
    default_rng = np.random.default_rng

    def noted(seed: Any = None) -> np.random.Generator:
        made.append(seed)
        return default_rng(seed)

    kinds = (np.random.RandomState, random.Random)
    noting = {id(default_rng): noted} | {id(k): _noting(k, made, module) for k in kinds}
    places = (vars(np.random), vars(random), vars(sys.modules.get(module, random)))
    kept = [(p, name, v) for p in places for name, v in p.items() if id(v) in noting]
    try:
        for place, name, value in kept:
            place[name] = noting[id(value)]
        yield made
    finally:
        for place, name, value in kept:
            place[name] = value


class _Same(type):
    """Of a class whose instances are those of its base too."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.__mro__[1])


def _noting(kind: Any, made: list[Any], module: str) -> type:
    """Return a generator's class that notes its seeds where a module makes it."""

    def begin(self: Any, seed: Any = None) -> None:
        if sys._getframe(1).f_globals.get("__name__") == module:
            made.append(seed)
        kind.__init__(self, seed)

    return _Same(kind.__name__, (kind,), {"__init__": begin})
