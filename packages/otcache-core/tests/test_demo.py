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
