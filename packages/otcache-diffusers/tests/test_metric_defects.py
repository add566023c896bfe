"""Every metric that is offered, with every classic defect planted in it: its kit must notice.

A defect sits behind the metric's own checks, so that refusing bad images alone does not catch it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import metric_kits
import numpy as np
import pytest
from numpy.typing import NDArray

from otcache_core.contracts import PromptMetric, QualityMetric, SetMetric
from otcache_core.plugins import Registry
from otcache_core.testing import NotApplicable

Array = NDArray[np.floating]
#: What becomes of a metric's two arguments (images and reference, prompts or nothing).
Change = Callable[[Any, Any], tuple[Any, Any]]


# -- defects ---------------------------------------------------------------------------------------


def wrapped_difference(x: Array, y: Array) -> tuple[Array, Array]:
    """Take the difference of two images in bytes, where 3 - 5 is 254."""
    a, b = (np.round(255 * v).astype(np.uint8) for v in (x, y))
    return np.clip(y + (a - b) / 255.0, 0.0, 1.0), y


def white_to_black(x: Array, other: Any) -> tuple[Array, Any]:
    """Images are made bytes by a factor of 256, and white becomes 256, which is 0."""
    return ((256 * x).astype(np.int64) % 256) / 255.0, other


def another_range(x: Array, other: Any) -> tuple[Array, Any]:
    """Values in [0, 1] are judged as if white were 255."""
    return x / 255.0, other / 255.0 if isinstance(other, np.ndarray) else other


def blue_first(x: Array, other: Any) -> tuple[Array, Any]:
    """One image comes from a library that puts blue first."""
    return x[..., ::-1], other


def blue_first_in_both(x: Array, y: Array) -> tuple[Array, Array]:
    """Both do."""
    return x[..., ::-1], y[..., ::-1]


def off_by_one(x: Array, other: Any) -> tuple[Array, Any]:
    """Each image meets the partner of the one before it."""
    return np.roll(x, 1, axis=0), other


def one_omitted(x: Array, other: Any) -> tuple[Array, Any]:
    """Lose an image by an index that is off by one: a set has no partners."""
    return x[1:], other


DEFECTS: dict[str, dict[Change, str]] = {
    "pairs": {
        wrapped_difference: "a_small_difference_is_small_in_both_directions",
        white_to_black: "white_is_not_black",
        another_range: "the_expected_values",
        blue_first: "the_expected_values",
        blue_first_in_both: "the_expected_values",
        off_by_one: "values_do_not_depend_on_the_batch",
    },
    "prompts": {
        white_to_black: "the_expected_values",
        another_range: "the_expected_values",
        blue_first: "the_expected_values",
        off_by_one: "values_do_not_depend_on_the_batch",
    },
    "set": {
        white_to_black: "the_expected_values",
        another_range: "the_expected_values",
        blue_first: "the_expected_values",
        one_omitted: "every_image_counts",
    },
}

#: Where another check catches it; None where it is not a defect: letters are read whatever their colour.
ELSEWHERE: dict[tuple[str, Change], str | None] = {
    ("legible", white_to_black): "noise_on_letters_is_worse",
    ("legible", wrapped_difference): "a_small_difference_of_letters_is_none",
    ("legible", off_by_one): "the_expected_values",
    ("legible", blue_first): None,
}


# -- planting --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A metric whose arguments are changed after it has accepted them."""

    metric: Any
    change: Change

    def __call__(self, *arguments: Any) -> Any:
        self.metric(*arguments)  # it refuses what it refuses
        changed = self.change(*arguments, *[None] * (2 - len(arguments)))
        return self.metric(*changed[: len(arguments)])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.metric, name)


def breaks(kit: Any, check: str) -> bool:
    """Whether a kit's metric fails this check of it."""
    try:
        getattr(kit, f"test_{check}")()
    except (NotApplicable, pytest.xfail.Exception):
        return False
    except (AssertionError, pytest.fail.Exception):
        return True
    return False


def kit_with(name: str, change: Change) -> Any:
    kit = metric_kits.KITS[name]
    planted = Planted(kit().make_metric(), change)
    return type("Kit", (kit,), {"make_metric": lambda self: planted})()


OFFERED = [
    o.info.name for o in Registry().infos("metrics") if o.distribution == "otcache-diffusers"
]
CASES = [
    pytest.param(name, change, id=f"{name}-{change.__name__}")
    for name in OFFERED
    for change in DEFECTS[Registry().get("metrics", name).takes]
]


def check_that_catches(name: str, change: Change) -> str | None:
    """None if the metric's value is the same by design, so that nothing is wrong."""
    if change is blue_first_in_both and metric_kits.KITS[name].channel_blind:
        return None
    check = DEFECTS[Registry().get("metrics", name).takes][change]
    return ELSEWHERE.get((name, change), check)


@pytest.mark.parametrize(("name", "change"), CASES)
def test_a_planted_defect_is_caught(name: str, change: Change) -> None:
    check = check_that_catches(name, change)
    assert breaks(kit_with(name, change), check or "the_expected_values") == bool(check)


@pytest.mark.parametrize("name", OFFERED)
def test_without_a_defect_the_checks_that_catch_it_hold(name: str) -> None:
    """So what is caught above is the defect, not the planting."""
    kit = kit_with(name, lambda *arguments: arguments)
    checks = {check_that_catches(name, change) for change in DEFECTS[kit.make_metric().takes]}
    assert [check for check in checks if check and breaks(kit, check)] == []


def test_there_is_a_defect_of_every_sort_for_every_kind() -> None:
    kinds = {"pairs": QualityMetric, "prompts": PromptMetric, "set": SetMetric}
    assert set(DEFECTS) == set(kinds)
    assert all(len(defects) >= 4 for defects in DEFECTS.values())
    assert {Registry().get("metrics", name).takes for name in OFFERED} == set(kinds)
