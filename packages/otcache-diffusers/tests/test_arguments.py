"""Which argument of a denoiser is the sampler's state, in any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from otcache_core import Schedule
from otcache_core.loop import Loop
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks.arguments import ArgumentPlace, Arguments, TimeArgument, parameters_of

#: How a time may be handed over to a batch of n images.
TIMES: dict[str, Callable[[int], Any]] = {
    "number": lambda n: 0.5,
    "scalar": lambda n: torch.tensor(0.5),
    "one": lambda n: torch.full((1,), 0.5),
    "each": lambda n: torch.full((n,), 0.5),
    "column": lambda n: torch.full((n, 1), 0.5),
    "broad": lambda n: torch.full((n, 1, 1, 1), 0.5),
    "integer": lambda n: torch.full((n,), 500),
    "numpy": lambda n: torch.full((n,), 0.5).numpy(),
}
#: How the state may be.
STATES: dict[str, Callable[[int], Any]] = {
    "image": lambda n: torch.zeros(n, 3, 4, 4),
    "vector": lambda n: torch.zeros(n, 5),
    "half": lambda n: torch.zeros(n, 5, dtype=torch.float16),
    "complex": lambda n: torch.zeros(n, 5, dtype=torch.complex64),
    "dictionary": lambda n: {"x": torch.zeros(n, 5), "mask": torch.ones(n, 5, dtype=torch.bool)},
    "pair": lambda n: (torch.zeros(n, 5), torch.zeros(n, 2)),
    "numpy": lambda n: torch.zeros(n, 5).numpy(),
}
#: What else may be given.
OTHERS: dict[str, Callable[[int], Any]] = {
    "nothing": lambda n: None,
    "label": lambda n: torch.zeros(n, dtype=torch.long),
    "text": lambda n: "a prompt",
}


def _call(order: Any, named: int, t: Any, x: Any, y: Any) -> Arguments:
    """Return the arguments in an order, the last ``named`` of them by name."""
    values = {"hour": t, "x": x, "y": y}
    places, names = order[: 3 - named], order[3 - named :]
    return Arguments([values[name] for name in places], {name: values[name] for name in names})


@settings(deadline=None)  # shared machines are slow
@given(
    order=st.permutations(["hour", "x", "y"]),
    named=st.integers(0, 3),
    time=st.sampled_from(sorted(TIMES)),
    state=st.sampled_from(sorted(STATES)),
    other=st.sampled_from(sorted(OTHERS)),
    n=st.integers(2, 4),
)
def test_the_shape_is_that_of_the_state_in_any_order(
    order: Any, named: int, time: str, state: str, other: str, n: int
) -> None:
    """So a batch of another size never has the shape of this one, whatever its time is like."""
    x = STATES[state](n)
    leaf = x if hasattr(x, "shape") else next(iter(x.values() if isinstance(x, dict) else x))
    found = _call(order, named, TIMES[time](n), x, OTHERS[other](n))
    assert found.shape[-leaf.ndim :] == tuple(leaf.shape)
    assert found.state is leaf or not isinstance(leaf, Tensor)


@settings(deadline=None)
@given(
    order=st.permutations(["hour", "x", "y"]),
    time=st.sampled_from(sorted(TIMES)),
    n=st.integers(2, 4),
)
def test_of_states_of_one_number_a_sample_the_shape_is_right(order: Any, time: str, n: int) -> None:
    if time == "broad":
        return  # more dimensions than the state has
    assert _call(order, 0, TIMES[time](n), torch.zeros(n, 1), None).shape == (n, 1)


@settings(deadline=None)
@given(
    order=st.permutations(["t", "x", "context", "labels"]),
    named=st.integers(0, 4),
    again=st.integers(0, 4),
    width=st.integers(1, 3),
    learned=st.integers(0, 1),
)
def test_the_state_is_the_argument_shaped_like_the_output(
    order: Any, named: int, again: int, width: int, learned: int
) -> None:
    """Also where it is passed in another way in a later call."""
    n = 3
    values = {
        "t": torch.full((n, 1), 0.5),
        "x": torch.zeros(n, width, 2) if width > 1 else torch.zeros(n, 1),
        "context": torch.zeros(1, 7, 2),
        "labels": torch.zeros(n, 1, dtype=torch.long),
    }

    def call(by_name: int) -> Arguments:
        cut = len(order) - by_name
        return Arguments(
            [values[name] for name in order[:cut]],
            {name: values[name] for name in order[cut:]},
            order,
        )

    x = values["x"]
    output = torch.cat([x, x], dim=1) if learned and width > 1 else x.clone()
    place = call(named).state_like(output)
    assert place is not None
    assert call(again).at(place) is x
    assert call(again).shape_at(place) == tuple(x.shape)


def test_ties_go_to_the_first_and_never_to_the_time() -> None:
    x, y, t = torch.zeros(3, 1), torch.ones(3, 1), torch.full((3, 1), 0.5)
    assert Arguments((t, x, y), {}, ("t", "x", "y")).state_like(x) == ArgumentPlace(1)
    assert Arguments((), {"time": t, "z": x, "y": y}).state_like(x) == ArgumentPlace("z")
    assert Arguments((t,), {}, ("t",)).state_like(x) is None
    assert Arguments((x,), {}).state_like("nothing") is None
    assert Arguments((x,), {}).at(ArgumentPlace(1)) is None


def test_a_list_of_images_counts_by_its_length() -> None:
    images, t = [torch.zeros(4, 1, 8, 8)] * 3, torch.full((3,), 0.5)
    for found in (Arguments((images, t), {}), Arguments((t, images), {})):
        assert found.shape == (3, 4, 1, 8, 8)
    assert Arguments((), {}).shape == ()
    assert Arguments(("a",), {}).shape == ()


def _function(t: Any, x: Any) -> None: ...


class _Module(nn.Module):
    def forward(self, x: Any, *, t: Any, y: Any = None) -> None: ...


class _Wrapper:
    """Passes attributes on to a module, as wrappers do, and is called otherwise."""

    forward = _Module().forward

    def __call__(self, sigma: Any, x: Any) -> None: ...


@pytest.mark.parametrize(
    ("denoiser", "names"),
    [(_function, ("t", "x")), (_Module(), ("x",)), (_Wrapper(), ("sigma", "x")), (max, ())],
)
def test_parameters_are_those_of_what_is_called(denoiser: Any, names: tuple[str, ...]) -> None:
    assert parameters_of(denoiser) == names


@pytest.mark.parametrize(
    ("args", "time", "certain"),
    [
        ((0.5, torch.zeros(2, 3)), 0.5, True),
        ((1, torch.zeros(2, 3)), 1, False),
        ((torch.zeros(2, 3), 0.5), 0.5, True),
        ((torch.zeros(2, 3), 1), 1, False),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), None, True),
        ((torch.zeros(2, 3),), None, False),
        ((), None, False),
    ],
)
def test_a_time_without_a_name_is_a_number_beside_the_state(
    args: Any, time: Any, certain: bool
) -> None:
    assert TimeArgument(lambda *args: None).of(Arguments(args, {})) == (time, certain)


def test_the_time_of_a_function_is_found_by_its_name() -> None:
    arguments = Arguments((torch.tensor([7]), torch.zeros(2, 3)), {})
    assert TimeArgument(_function).of(arguments) == (torch.tensor([7]), True)


# -- a batch that halves within a run -------------------------------------------------------------


class Field(nn.Module):
    """v(t, x), and v(context, t, x) with a context that serves any batch."""

    def forward(self, *given: Tensor) -> Tensor:
        t, x = given[-2:]
        return t * x


N = 6


@pytest.mark.parametrize("context", [(), (torch.zeros(1, 7, 2),)], ids=["t, x", "context, t, x"])
@pytest.mark.parametrize("back", [False, True], ids=["halves", "doubles"])
def test_an_output_is_never_given_to_a_batch_of_another_size(context: Any, back: bool) -> None:
    """It was, where the first tensor is not the state: guidance by a doubled batch that ends."""
    net, sizes = Field(), []

    def sample(num_steps: int) -> Tensor:
        x = tiny.noise(2, 3)
        for i in range(num_steps):
            batch = torch.cat([x, x]) if (i < 3) != back else x
            sizes.append((len(batch), len(net(*context, torch.tensor(1 - i / N), batch))))
        return x

    loop = Loop(sample, net)
    with TorchExecutor().attach(loop, Schedule(N, (0, 2, 4))) as run:
        loop(N)
    assert all(given == got for given, got in sizes)
    assert sum(run.report.skipped.values()) == 2
    assert run.report.runs == 1
