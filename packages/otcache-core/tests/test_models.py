"""A demo is a pipeline that anyone can run."""

from __future__ import annotations

import pytest

from otcache_core import Demo, OtcacheError


def test_a_demo_loads_when_asked() -> None:
    calls: list[int] = []
    demo = Demo("toy", "a toy", load=lambda: calls.append(1), prompts={"all": (("a cat", "cat"),)})
    assert calls == []
    demo.load()
    assert calls == [1]


@pytest.mark.parametrize("pair", [("alone",), ("a", "b", "c"), ("a", 1)])
def test_prompts_are_pairs_of_text_and_tag(pair: tuple[object, ...]) -> None:
    with pytest.raises(OtcacheError) as caught:
        Demo("toy", "a toy", load=dict, prompts={"held-out": (pair,)})
    assert "Demo.prompts['held-out'] must be pairs of strings (text, tag)" in str(caught.value)


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf")])
def test_a_frame_rate_is_a_number(rate: float) -> None:
    with pytest.raises(OtcacheError, match=r"Demo\.frames_per_second must be a number of at least"):
        Demo("toy", "a toy", load=dict, frames_per_second=rate)


def test_images_have_no_frame_rate() -> None:
    assert Demo("toy", "a toy", load=dict).frames_per_second == 0
