"""What a loop of the user's own tells of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

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
    """The last one only is told by the loop itself."""
    assert Loop(sample, lambda x: x, num_steps=3).steps_of("a", **given) == steps


def test_an_argument_is_no_bag_of_arguments_for_its_name() -> None:
    """It was taken for one, where it is called kwargs."""
    assert Loop(lambda kwargs: None, lambda x: x).steps_of({"steps": 9}) is None
