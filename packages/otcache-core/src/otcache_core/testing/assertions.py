"""Assertions that kits share: values agree, arguments and random state are unchanged, a package is found."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from otcache_core.errors import shown
from otcache_core.plugins.discovery import PluginSettings, found_entry_points, normalise
from otcache_core.plugins.plugin_scan import ScanResult, scan_entry_points

T = TypeVar("T")
#: What a check says if something left another global random state than a plain run does.
RANDOM = (
    "the global random state was used or seeded, beyond what a plain run of the target does: draw from a "
    "generator of your own, as numpy.random.default_rng(seed)"
)
#: What checks say if a target is not as it was, or gives another result.
LEFT = "something is left on the target, one of its modules or their class: put back what was there"
OTHER = "the target gives another result afterwards: put back what was changed"
#: Seconds that the classes of a package may take to import: they may import torch.
LIMIT = 60.0


def assert_equal(found: Any, wanted: Any, what: str) -> None:
    """Assert that two arrays are equal bit by bit; NaN equals NaN.

    Args:
        found: what the plugin gives.
        wanted: what it must give, of the same shape.
        what: what is wrong where they differ, and what to do.

    Raises:
        AssertionError: with ``what`` and the largest difference.
    """
    x, y = _arrays(found, wanted, what)
    numbers = all(v.dtype.kind in "fc" for v in (x, y))
    assert np.array_equal(x, y, equal_nan=numbers), f"{what} ({_apart(x, y)})"


def assert_near(
    found: Any, wanted: Any, what: str, *, rtol: float = 1e-7, atol: float = 0.0
) -> None:
    r"""Assert that :math:`|x - y| \le a + r |y|` everywhere.

    Args:
        found: x, what the plugin gives.
        wanted: y, what it must give, of the same shape.
        what: what is wrong where they differ, and what to do.
        rtol: r.
        atol: a.

    Raises:
        AssertionError: with ``what`` and the largest difference.
    """
    x, y = _arrays(found, wanted, what)
    near = np.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True)
    assert near, f"{what} ({_apart(x, y)})"


def check_reasons(own: str, other: str) -> None:
    """Assert what ``supports`` gives for the kit's target, and for an object that is none."""
    assert own == "", f"supports() of the kit's target gives {shown(own)}: return '' for it"
    assert other, "supports(object()) gives no reason: say why another target is not supported"


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

    The states of ``random``, ``numpy.random`` and, if it is imported, torch's CPU generator are put back.

    Raises:
        AssertionError: if one of the generators was used or seeded.
    """
    return _undrawn(make, 12345), _undrawn(make, 54321)


def random_state_of(make: Callable[[], object]) -> Any:
    """Return a snapshot of the global random state that something leaves, begun at a fixed one."""
    with _random_state(12345):
        make()
        return snapshot(_states())


@contextmanager
def seeds_of_generators(module: str = "") -> Iterator[list[Any]]:
    """Collect what generators are seeded with; None for one that is not seeded.

    Those of ``numpy.random.default_rng``, called by anyone, and of a module's own ``default_rng``,
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


def check_installed(distribution: str) -> None:
    """Assert that the hooks of an installed package are found, and that all they offer can be imported.

    A kit makes its plugin from the class, and sees neither a misspelt hook nor a target that is not there.
    The package is imported in a child process. ``otcache plugins doctor`` looks at the same, and at what
    the package requires.

    Args:
        distribution: by which the package is installed, as ``otcache-mine``.

    Raises:
        AssertionError: with all that is wrong.
    """
    name = normalise(distribution)
    points = [p for p in found_entry_points(PluginSettings(), True) if p.distribution == name]
    assert points, (
        f"{distribution} is not installed with an entry point of the group otcache: write one into its "
        "pyproject.toml, [project.entry-points.otcache], and install it anew, pip install -e FOLDER"
    )
    results = scan_entry_points(points, targets=True, limit=LIMIT, cached=False)
    wrong = [problem for result in results for problem in _problems(result)]
    assert not wrong, f"of {distribution}: {'; '.join(wrong)} (see otcache plugins doctor)"


def _undrawn(make: Callable[[], T], seed: int) -> T:
    with _random_state(seed):
        before = _states()
        made = make()
        for name, state in _states().items():
            used = name in before and snapshot(state) != snapshot(before[name])
            assert not used, (
                f"the global random state of {name} was used or seeded: draw from a generator of your own, "
                "as numpy.random.default_rng(seed)"
            )
    return made


@contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """Seed the global generators, and put their states back at the end."""
    kept, torch = _states(), sys.modules.get("torch")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the global state is what this is about
    if torch is not None:
        torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(kept["random"])
        np.random.set_state(kept["numpy.random"])  # noqa: NPY002
        if torch is not None:
            torch.set_rng_state(torch.from_numpy(kept["torch"]))


def _states() -> dict[str, Any]:
    states: dict[str, Any] = {"random": random.getstate(), "numpy.random": np.random.get_state()}  # noqa: NPY002
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.get_rng_state().numpy().copy()
    return states


class _Same(type):
    """The type of a class whose instances are those of its base too."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.__mro__[1])


def _noting(kind: Any, made: list[Any], module: str) -> type:
    """Return a generator's class that notes its seeds where a module makes it."""

    def begin(self: Any, seed: Any = None) -> None:
        if sys._getframe(1).f_globals.get("__name__") == module:
            made.append(seed)
        kind.__init__(self, seed)

    return _Same(kind.__name__, (kind,), {"__init__": begin})


def _problems(result: ScanResult) -> Iterator[str]:
    """Yield what is wrong, but for how long the import takes, which differs from machine to machine."""
    for found in result.findings:
        if found.kind != "slow":
            yield ": ".join(filter(None, (found.where, " ".join(found.what.split()))))
    if not (result.findings or result.offers):
        yield f"{result.module} offers nothing: mark its hooks with @hookimpl"
    if result.printed.strip():
        yield f"it prints when it is imported: {' '.join(result.printed.split())}"
    for offer in result.offers:
        for needed in offer.info().missing():
            yield f"{offer.kind} {offer.name} needs {needed}, which is not installed"


def _arrays(found: Any, wanted: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(found), np.asarray(wanted)
    if y.ndim == 0 and x.ndim:  # one number for all
        y = np.broadcast_to(y, x.shape)
    assert x.shape == y.shape, f"{what} (shapes are {x.shape} and {y.shape})"
    return x, y


def _apart(x: np.ndarray, y: np.ndarray) -> str:
    """Return the largest difference in words."""
    if x.dtype.kind not in "biuf" or y.dtype.kind not in "biuf":
        return f"{int(np.sum(x != y))} of {x.size} values differ"
    with np.errstate(invalid="ignore"):
        apart = np.abs(x.astype(np.float64) - y.astype(np.float64))
    if not np.isfinite(apart).all():
        return "some values are not finite"
    return f"the largest difference is {apart.max(initial=0.0):.3g}"
