"""Denoiser outputs of any make: opened, put together again, combined, cut into samples; or refused."""

from __future__ import annotations

import re
import tempfile
from collections import OrderedDict, UserDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.utils import BaseOutput
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

from otcache_core import Schedule
from otcache_core.contracts import CacheStorage, SampleRequest
from otcache_core.errors import ExecutionError, OtcacheNotice
from otcache_core.loop import Loop
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks import combine, tensors
from otcache_diffusers.hooks.trees import examine, flatten, prediction, unflatten
from otcache_diffusers.recording.full_runs import DiskStore, loaded
from otcache_diffusers.recording.probe import TorchProbe
from otcache_diffusers.recording.rows import join_rows, split_rows, stack_rows

N = 8
ROWS, WIDTH = 3, 4


# -- classes of all makes -----------------------------------------------------------------------


class Mode(Enum):
    FAST = 1


class Pair(NamedTuple):
    a: Any
    b: Any = None


@dataclass
class Plain:
    a: Any
    b: Any = None


@dataclass
class Inherited(Plain):
    c: Any = "text"


@dataclass(frozen=True, slots=True)
class Frozen:
    a: Any
    b: Any = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "b", 2.5)


@dataclass
class Model(BaseOutput):
    """As diffusers makes them; what is None is not an item of it, so its class cannot be called again."""

    a: Any
    b: Any


class Slots:
    __slots__ = ("__hidden", "b", "empty")

    def __init__(self, a: Any) -> None:
        self.__hidden = a
        self.b = Mode.FAST


class Fussy:
    """Runs once, and never again."""

    made = 0

    def __new__(cls, *args: Any) -> Any:
        Fussy.made += 1
        return super().__new__(cls)

    def __init__(self, a: Any) -> None:
        self.__dict__.update(a=a, torn=None)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AssertionError

    __copy__ = __deepcopy__ = __reduce__ = __reduce_ex__ = __setattr__


class AttrDict(dict[str, Any]):
    def __init__(self, **items: Any) -> None:
        super().__init__(items)
        self.__dict__ = self


class Named(OrderedDict[str, Any]):
    note = "of the class"


class Many(list[Any]):
    pass


def _many(a: Any) -> Many:
    made = Many([a, None])
    made.label = "mine"  # type: ignore[attr-defined]  # any attribute may be set
    return made


#: Makes an output of what is in it.
MAKERS: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda a: (a, 1),
    "list": lambda a: [None, a],
    "dict": lambda a: {"a": a, "b": True},
    "named tuple": Pair,
    "dataclass": lambda a: Plain(a, "b"),
    "inherited": lambda a: Inherited(a, c=torch.float16),
    "frozen": Frozen,
    "diffusers": lambda a: Transformer2DModelOutput(sample=a),
    "diffusers, a field None": lambda a: Model(a=a, b=None),
    "slots": Slots,
    "fussy": Fussy,
    "namespace": lambda a: SimpleNamespace(a=a, n=np.float32(2)),
    "user dict": lambda a: UserDict({"a": a}),
    "attributes are items": lambda a: AttrDict(a=a, mode=Mode.FAST),
    "ordered": lambda a: Named(a=a),
    "list with a label": _many,
}
over_makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def _tensor(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return tiny.noise(ROWS, WIDTH, seed=seed).to(dtype)


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> Callable[[int], Any]:
    """Trees of one random form, by the seed of their tensors."""
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.float64, torch.complex64]))
    grown: list[Callable[[int], Any]] = [lambda seed: _tensor(seed, dtype)]
    for _ in range(draw(st.integers(0, depth))):
        make = draw(st.sampled_from(list(MAKERS.values())))
        beside = draw(st.sampled_from([None, 1.5, "scalar", "counts", "another"]))

        def grow(seed: int, make: Any = make, beside: Any = beside, inner: Any = grown[-1]) -> Any:
            more = {
                "scalar": torch.tensor(float(seed)),
                "counts": torch.arange(ROWS) + seed,
                "another": _tensor(seed + 100),
            }
            return make((inner(seed), more.get(beside, beside)))

        grown.append(grow)
    return grown[-1]


def _same(one: Any, other: Any) -> None:
    """Of one form, with the very same leaves."""
    (a, form), (b, other_form) = flatten(one), flatten(other)
    assert type(one) is type(other)
    assert form == other_form
    assert all(x is y for x, y in zip(a, b, strict=True))


# -- opened and put together ----------------------------------------------------------------------


@given(trees())
def test_put_together_again_a_tree_is_the_same(tree: Callable[[int], Any]) -> None:
    output = tree(1)
    before = Fussy.made
    _same(unflatten(*flatten(output)), output)
    assert Fussy.made == before


@over_makers
def test_every_make_keeps_its_class_and_all_it_holds(make: Callable[[Any], Any]) -> None:
    known = dict(pytree.SUPPORTED_NODES)
    x, y = _tensor(1), _tensor(2)
    output = make(x)
    leaves, form = flatten(output)
    made = unflatten([y if leaf is x else leaf for leaf in leaves], form)
    assert type(made) is type(output)
    assert made is not output
    assert tensors(made)[0] is y
    assert tensors(output)[0] is x
    assert prediction(made) is y
    if hasattr(output, "__dict__"):
        assert vars(made).keys() == vars(output).keys()
    _same(unflatten(leaves, form), output)
    assert known == dict(pytree.SUPPORTED_NODES)


def test_attributes_that_are_items_stay_so() -> None:
    x = _tensor(1)
    model, attributes = combine([Model(x, None)], [2.0]), combine([AttrDict(a=x)], [2.0])
    assert model.a is model["a"]
    assert (model.b, "b" in model) == (None, False)
    torch.testing.assert_close(model.a, 2 * x)
    assert attributes.a is attributes["a"]
    attributes.c = 3
    assert attributes["c"] == 3


def test_distributions_are_combined_by_their_parameters() -> None:
    normal = torch.distributions.Normal
    made = combine([normal(_tensor(1), 2.0), normal(_tensor(2), 1.0)], [2.0, -1.0])
    assert isinstance(made, normal)
    torch.testing.assert_close(made.mean, 2 * _tensor(1) - _tensor(2))
    torch.testing.assert_close(made.stddev, torch.full((ROWS, WIDTH), 3.0))


def test_an_object_without_tensors_is_carried_along_as_it_is() -> None:
    note = Plain("about", [1, None])
    made = combine([Plain(_tensor(1), note), Plain(_tensor(2), note)], [2.0, -1.0])
    assert made.b is note
    examine(made)


# -- refused --------------------------------------------------------------------------------------


def _cycle() -> Any:
    made = SimpleNamespace()
    made.other = SimpleNamespace(back=made)
    return made


class Closes:
    def __del__(self) -> None: ...


SHUT: dict[str, tuple[Any, str]] = {
    "numpy": (np.zeros(3, np.float32), r"numpy.ndarray: return torch.from_numpy\(array\)"),
    "module": (nn.Linear(1, 1), "Linear: return the tensors, or wrap the denoiser in an nn.Module"),
    "generator": ((n for n in range(3)), "generator: return"),
    "memory": (memoryview(b"abc"), "memoryview: return"),
    "pattern": (re.compile(""), "re.Pattern: return"),
    "function": (lambda: 1, "function: return"),
    "set": ({1}, "set: return"),
    "holds itself": (_cycle(), "SimpleNamespace: return"),
    "cleans up": (Closes(), "Closes: return"),
}


@pytest.mark.parametrize(("shut", "message"), SHUT.values(), ids=SHUT)
def test_what_cannot_be_opened_is_refused_by_name(shut: Any, message: str) -> None:
    with pytest.raises(ExecutionError, match=f"must return tensors.*got .*{message}"):
        examine(shut)
    for output in ((_tensor(1), shut), Plain(_tensor(1), [shut])):
        with pytest.raises(ExecutionError, match=r"must return tensors.* inside .*"):
            examine(output)
        with pytest.raises(ExecutionError, match="must return tensors"):
            split_rows(output, ROWS)


@pytest.mark.parametrize("output", [None, 2.5, "text", (), {"a": None}, Plain(1)])
def test_an_output_without_a_tensor_is_refused(output: Any) -> None:
    with pytest.raises(ExecutionError, match="without a tensor: return the tensors"):
        examine(output)


def test_the_advice_for_arrays_removes_the_error() -> None:
    examine(torch.from_numpy(np.zeros(3, np.float32)))


def test_integers_are_never_forecast_in_silence() -> None:
    v = torch.arange(3)
    assert combine([v], [1.0]) is v
    with pytest.raises(
        ExecutionError, match=r"floating-point numbers, got torch\.Tensor.* use reuse"
    ):
        combine([v, v], [2.0, -1.0])


# -- combined -------------------------------------------------------------------------------------


@given(trees(), st.lists(st.floats(-2, 2, width=16), min_size=2, max_size=3))
def test_combinations_are_linear_in_every_leaf(
    tree: Callable[[int], Any], coefficients: list[float]
) -> None:
    outputs = [tree(seed) for seed in range(len(coefficients))]
    made = combine(outputs, coefficients)
    assert flatten(made)[1] == flatten(outputs[0])[1]
    for found, *parts in zip(flatten(made)[0], *(flatten(o)[0] for o in outputs), strict=True):
        first = parts[0]
        if not isinstance(first, torch.Tensor) or first.dtype == torch.int64:
            assert found is first
            continue
        wide = torch.complex128 if first.is_complex() else torch.float64
        exact = sum(a * p.to(wide) for a, p in zip(coefficients, parts, strict=True))
        size = sum(abs(a) * p.abs().double() for a, p in zip(coefficients, parts, strict=True))
        rounding = torch.finfo(first.dtype).eps + 8 * torch.finfo(torch.float32).eps
        assert found.dtype == first.dtype
        assert bool(((found.to(wide) - exact).abs() <= size * rounding + 1e-7).all())


# -- cut into samples -----------------------------------------------------------------------------


@given(trees(), st.sampled_from([1, ROWS]))
def test_join_is_the_inverse_of_split(tree: Callable[[int], Any], samples: int) -> None:
    output = tree(1)
    rows = split_rows(output, samples)
    back = join_rows(rows)
    assert flatten(back)[1] == flatten(output)[1]
    assert len(rows) == samples
    for found, leaf in zip(flatten(back)[0], flatten(output)[0], strict=True):
        if isinstance(leaf, torch.Tensor):
            torch.testing.assert_close(found, leaf, rtol=0, atol=0)
        else:
            assert found is leaf


@given(trees())
def test_rows_are_in_memory_of_their_own(tree: Callable[[int], Any]) -> None:
    output = tree(1)
    rows = split_rows(output, ROWS)
    for leaf in tensors(output):
        leaf.zero_()
    for found, leaf in zip(tensors(join_rows(rows)), tensors(tree(1)), strict=True):
        assert torch.equal(found, leaf)


@pytest.mark.parametrize("beside", [0.5, None, torch.tensor(2.0), torch.ones(5), torch.ones(3, 2)])
@pytest.mark.parametrize("samples", [1, 2, 4])
def test_what_has_no_rows_is_carried_along(samples: int, beside: Any) -> None:
    v = tiny.noise(8, 4)
    rows = split_rows({"v": v, "beside": beside}, samples)
    assert stack_rows(rows).shape == (samples, 8 // samples, 4)
    torch.testing.assert_close(join_rows(rows), {"v": v, "beside": beside}, rtol=0, atol=0)


@pytest.mark.parametrize("scalar", [0.5, torch.tensor(2.0)])
def test_the_prediction_may_come_after_scalars(scalar: Any) -> None:
    v = tiny.noise(6, 4)
    assert prediction((scalar, v)) is v
    assert torch.equal(join_rows(split_rows((scalar, v), 3))[1], v)


def test_samples_of_batches_of_other_sizes_go_together() -> None:
    v, statistics = tiny.noise(5, 4), torch.ones(7)
    rows = split_rows((v[:4], statistics), 4) + split_rows((v[4:], 2 * statistics), 1)
    found, carried = join_rows(rows)
    assert torch.equal(found, v)
    assert torch.equal(carried, statistics)


@pytest.mark.remedy(
    "of {} rows to be cut into as many samples, got {}: use otcache.Recipe(batch_size=1)"
)
def test_following_the_advice_removes_the_error_of_rows() -> None:
    v = tiny.noise(3, 4)
    with pytest.raises(ExecutionError, match=r"multiple of 2 rows .*Recipe\(batch_size=1\)"):
        split_rows((v, v.mean()), 2)
    assert torch.equal(join_rows(split_rows((v, v.mean()), 1))[0], v)


@pytest.mark.remedy("got a scalar and no other tensor: return a tensor of shape (batch, ...)")
def test_a_scalar_alone_gets_advice_what_to_return() -> None:
    with pytest.raises(ExecutionError, match=r"got a scalar .*of shape \(batch, ...\)"):
        split_rows(torch.tensor(1.0), 1)
    assert len(split_rows(torch.ones(2, 1), 2)) == 2


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        pytest.param(
            [torch.ones(1, 2), (torch.ones(1, 2),)],
            "changed their structure",
            marks=pytest.mark.remedy(
                "one to be put together in a batch; use otcache.Recipe(batch_size=1)"
            ),
        ),
        pytest.param(
            [torch.ones(1, 2), torch.ones(1, 3)],
            r"one shape .*got \(1, 2\), \(1, 3\)",
            marks=pytest.mark.remedy(
                "put together in a batch, got {}: use otcache.Recipe(batch_size=1)"
            ),
        ),
    ],
)
def test_samples_that_differ_are_not_put_together(parts: list[Any], message: str) -> None:
    with pytest.raises(ExecutionError, match=rf"{message}.*Recipe\(batch_size=1\)"):
        join_rows(parts)
    for part in parts:
        join_rows([part])


@given(trees())
def test_a_disk_store_returns_any_tree(tree: Callable[[int], Any]) -> None:
    output = tree(1)
    with tempfile.TemporaryDirectory() as folder:
        found = loaded(DiskStore(Path(folder)).put(output))
    assert flatten(found)[1] == flatten(output)[1]
    for one, leaf in zip(flatten(found)[0], flatten(output)[0], strict=True):
        if isinstance(leaf, torch.Tensor):
            assert torch.equal(one, leaf)
        else:
            assert one is leaf


# -- in runs --------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """A velocity, wrapped."""

    def __init__(self, wrap: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.net, self.wrap = tiny.Velocity(), wrap

    def forward(self, x: torch.Tensor, t: Any) -> Any:
        return self.wrap(self.net(x, t))


def _loop(wrap: Callable[[torch.Tensor], Any], read: Callable[[Any], torch.Tensor]) -> Loop:
    net, grid = Wrapped(wrap), tiny.euler_grid

    def sample(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
        x, s = torch.stack([tiny.noise(8, seed=seed) for seed in seeds]), grid(num_steps)
        with torch.no_grad():
            for i in range(num_steps):
                x = x + (s[i + 1] - s[i]) * read(net(x, torch.tensor(s[i])))
        return x

    return Loop(sample, net, grid=grid)


PLAIN = (lambda v: v, lambda o: o)
WRAPS: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[Any], torch.Tensor]]] = {
    "dataclass": (lambda v: Plain({"mean": v}, 3), lambda o: o.a["mean"]),
    "frozen": (Frozen, lambda o: o.a),
    "plain object": (Fussy, lambda o: o.a),
    "with a scalar": (lambda v: (v, v.mean()), lambda o: o[0]),
    "after a scalar": (lambda v: {"m": v.mean(), "v": v, "n": 1}, lambda o: o["v"]),
    "diffusers": (lambda v: Model(v, None), lambda o: o.a),
}
SCHEDULES = [
    Schedule(N, (0, 2, 5)),
    Schedule(N, (0, 2, 5), "linear"),
    Schedule(N, (0, 2, 5), "fitted", weights=((0.1,), (0.1, 0.5), (0.1, 0.5, 0.2))),
]


@pytest.mark.parametrize("storage", [CacheStorage(), CacheStorage("bf16", "cpu")], ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=["reuse", "linear", "fitted"])
@pytest.mark.parametrize(("wrap", "read"), WRAPS.values(), ids=WRAPS)
def test_forecasts_of_an_output_are_those_of_its_tensor(
    wrap: Any, read: Any, schedule: Schedule, storage: CacheStorage
) -> None:
    results = []
    for loop in (_loop(*PLAIN), _loop(wrap, read)):
        with TorchExecutor().attach(loop, schedule, storage=storage) as run:
            results.append(loop([""] * 2, [0, 1], N))
        assert run.report.skipped == {"call": 5}
        assert run.report.warnings == []
    assert torch.equal(*results)


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("name", ["dataclass", "with a scalar", "plain object"])
def test_evaluations_of_an_output_are_those_of_its_tensor(name: str, size: int) -> None:
    request = SampleRequest(("a",) * 3, (0, 1, 2), N, {}, size)
    found = []
    for loop in (_loop(*PLAIN), _loop(*WRAPS[name])):
        runs = list(TorchProbe().record(loop, request))
        evaluator = TorchProbe().evaluator(loop, request, runs)
        found.append(evaluator.evaluate(SCHEDULES[:2], fit=True))
    np.testing.assert_array_equal(found[0].errors, found[1].errors)
    assert found[0].schedules == found[1].schedules


def test_a_run_of_outputs_that_cannot_be_opened_is_computed_and_reported() -> None:
    loop = _loop(lambda v: Plain(v, v.numpy()), lambda o: o.a)
    wanted, why = loop([""], [0], N), r"numpy\.ndarray inside .*test_outputs.Plain"
    with (
        pytest.warns(OtcacheNotice, match=why) as heard,
        TorchExecutor().attach(loop, SCHEDULES[0]) as run,
    ):
        assert torch.equal(loop([""], [0], N), wanted)
    assert (run.report.skipped, len(run.report.warnings), len(heard)) == ({}, 1, 1)
    with (
        TorchExecutor().attach(loop, SCHEDULES[0], strict=True),
        pytest.raises(ExecutionError, match=why),
    ):
        loop([""], [0], N)


def test_outputs_that_cannot_be_combined_are_computed_and_reported() -> None:
    loop = _loop(lambda v: ((v * 1000).int(),), lambda o: o[0] / 1000)
    wanted = loop([""], [0], N)
    with (
        pytest.warns(OtcacheNotice, match="a forecast needs outputs of floating-point numbers"),
        TorchExecutor().attach(loop, Schedule(N, (0, 1), "linear")) as run,
    ):
        assert torch.equal(loop([""], [0], N), wanted)
    assert (run.report.skipped, len(run.report.warnings)) == ({}, 1)


def test_an_output_that_changes_its_structure_is_computed_and_reported() -> None:
    calls: list[int] = []

    def wrap(v: torch.Tensor) -> Any:
        calls.append(1)
        return (v,) if len(calls) == 1 else [v]

    loop = _loop(wrap, lambda o: o[0])
    with TorchExecutor().attach(loop, Schedule(N, (0, 2, 4, 6), "linear")) as run:
        loop([""], [0], N)
    assert run.report.skipped == {"call": 3}
    assert run.report.warnings == [
        "the outputs of branch 'call' changed their structure or shape during a run: the steps that "
        "needed one of before were computed."
    ]


def test_what_the_loop_puts_into_an_output_is_not_handed_out_again() -> None:
    """A loop may rescale in a dict it got, by putting another tensor there."""

    def read(output: Any) -> torch.Tensor:
        output["v"] = output["v"] * 0.5
        return output["v"]  # type: ignore[no-any-return]  # a dict of tensors

    results = []
    for loop in (_loop(lambda v: {"v": v}, read), _loop(lambda v: v, lambda o: o * 0.5)):
        with TorchExecutor().attach(loop, SCHEDULES[0]) as run:
            results.append(loop([""], [0], N))
        assert run.report.skipped == {"call": 5}
    assert torch.equal(*results)
