"""What a user's own loop reports of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache_core.errors import OtcacheError
from otcache_core.loop import Loop


def _named(prompts: Any, num_steps: int = 7) -> None: ...


def _other(prompts: Any, **call: Any) -> None: ...


def _usual(prompts: Any, **kwargs: Any) -> None: ...


def _tricky(kwargs: Any, **more: Any) -> None: ...


@pytest.mark.parametrize(
    ("sample", "given", "steps"),
    [
        (_named, {}, 7),
        (_named, {"num_steps": 5}, 5),
        (_named, {"num_steps": np.int64(5)}, 5),
        (_other, {"num_inference_steps": 5}, 5),
        (_usual, {"steps": 5}, 5),
        (_tricky, {"steps": 5}, 5),
        (_other, {"seeds": 5}, 3),
    ],
)
def test_the_step_count_is_found_wherever_it_is_given(
    sample: Callable[..., Any], given: dict[str, Any], steps: int
) -> None:
    """The last one only follows from the grid."""
    assert Loop(sample, lambda x: x, grid=[1.0, 0.7, 0.3, 0.0]).steps_of("a", **given) == steps


def test_a_number_of_steps_goes_before_an_argument() -> None:
    """k-diffusion's Heun makes 2n - 1 of n steps asked for: the argument is not what is made."""
    assert Loop(_named, lambda x: x, num_steps=13).steps_of("a", num_steps=7) == 13
    loop = Loop(_named, lambda x: x, num_steps=lambda n: 2 * n - 1)
    assert [loop.steps_of("a"), loop.steps_of("a", num_steps=5)] == [13, 9]
    assert Loop(_other, lambda x: x, num_steps=lambda n: 2 * n).steps_of("a") is None


@given(n=st.integers(1, 1000), factor=st.integers(1, 4), whole=st.integers(1, 99))
def test_positions_are_the_steps_made_of_those_asked_for(n: int, factor: int, whole: int) -> None:
    assert Loop(_named, lambda x: x).steps_made(n) == n
    assert Loop(_named, lambda x: x, num_steps=whole).steps_made(n) == whole
    assert (
        Loop(_named, lambda x: x, num_steps=lambda n: np.int64(factor * n)).steps_made(n)
        == factor * n
    )


@pytest.mark.parametrize("made", [0, -3, 7.0, "7", None, True])
def test_a_function_that_gives_no_number_of_steps_is_named(made: Any) -> None:
    loop = Loop(_named, lambda x: x, num_steps=lambda n: made)
    for ask in (lambda: loop.steps_of("a", num_steps=4), lambda: loop.steps_made(4)):
        with pytest.raises(
            OtcacheError, match=r"num_steps\(4\) must be an integer of at least 1, got"
        ):
            ask()


def test_a_function_of_the_steps_that_fails_is_named() -> None:
    loop = Loop(_named, lambda x: x, num_steps=lambda n: n // 0)
    with pytest.raises(OtcacheError, match=r"num_steps\(4\) must be .*got 'ZeroDivisionError: "):
        loop.steps_made(4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"num_steps": 0},
            "num_steps must be an integer of at least 1, or a function of the steps",
        ),
        ({"num_steps": 2.5}, "got 2.5"),
        ({"num_steps": True}, "got True"),
        ({"calls_per_step": 0}, "calls_per_step must be an integer of at least 1, got 0"),
        ({"calls_per_step": "2"}, "calls_per_step must be an integer of at least 1, got '2'"),
        ({"calls_per_step": True}, "calls_per_step must be an integer of at least 1, got True"),
        ({"grid": "abc"}, "grid must be a row of numbers, got 'abc'"),
        ({"grid": 12}, "grid must be a row of numbers, got 12"),
        ({"sample_fn": 3}, "sample_fn must be a function, got 'int'"),
    ],
)
def test_what_a_loop_is_made_of_is_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OtcacheError, match=message):
        Loop(**{"sample_fn": _named, "denoiser": lambda x: x, **given})


def test_an_argument_is_no_bag_of_arguments_for_its_name() -> None:
    """It was taken for one, where it is called kwargs."""
    assert Loop(lambda kwargs: None, lambda x: x).steps_of({"steps": 9}) is None
