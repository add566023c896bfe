"""Prompts, mappings and seeds as people have them."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache_core.errors import OtcacheError
from otcache_core.samples import arguments_of, brief, content, keys_of, samples_of, seeds_of

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


class Series:
    """As those of pandas: of one dimension, and neither true nor false."""

    ndim = 1

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def __iter__(self) -> Any:
        return iter(self._values)

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


@pytest.mark.parametrize(
    "prompts",
    [
        ("a", "b"),
        np.array(["a", "b"]),
        Series(["a", "b"]),
        (p for p in "ab"),
        {"a": 1, "b": 2}.keys(),
    ],
    ids=["tuple", "array", "series", "generator", "keys"],
)
def test_what_has_an_order_is_taken(prompts: Any) -> None:
    if isinstance(prompts, type({}.keys())):  # a view is a set that has an order, but not for long
        with pytest.raises(OtcacheError, match="a set"):
            samples_of(prompts)
        return
    found = samples_of(prompts)
    assert found == ("a", "b")
    assert [type(text) for text in found] == [str, str]


def test_rows_of_a_table_are_mappings() -> None:
    rows = [{"prompt": "a", "strength": 0.5}, {"prompt": "b", "strength": 0.6}]
    frame = SimpleNamespace(columns=["prompt", "strength"], to_dict=lambda orient: rows)
    assert samples_of(frame) == tuple(rows)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("a cat", r"got str: give a list of one, \[...\]"),
        ({"prompt": "a"}, r"got dict: give a list of one"),
        (None, "got NoneType"),
        (b"a", "got bytes"),
        ([], "got an empty one"),
        ({"a"}, "got a set, whose order changes"),
        (3, "got 3: give a list"),
        (np.array("a"), r"an array of shape \(\)"),
        (np.array([["a"]]), r"an array of shape \(1, 1\)"),
        (itertools.repeat("a"), "at most 10,000"),
        ([1], r'prompts\[0\] must be a text or a mapping.*"class_labels": 1'),
        (["a", None], r"prompts\[1\] must be"),
        ([["a"]], r"prompts\[0\] must be"),
        ([{}], r"prompts\[0\] must be"),
        ([{1: 2}], r"prompts\[0\] must be"),
        (
            [{"prompt": "a"}, {"image": 1}],
            r"prompts\[1\] must be those of prompts\[0\], prompt, got 'image'",
        ),
        (["a", {"prompt": "b", "image": 1}], r"arguments of prompts\[1\]"),
    ],
)
def test_other_samples_are_refused_by_name(prompts: Any, message: str) -> None:
    with pytest.raises(OtcacheError, match=message):
        samples_of(prompts)


@pytest.mark.remedy("give a list, of one dimension")
@pytest.mark.remedy("give a list of one, [...]")
@pytest.mark.remedy("got a set, whose order changes: give a list")
@pytest.mark.remedy("all samples of one calibration have the same ones; measure others apart")
def test_the_advice_about_samples_helps() -> None:
    with pytest.raises(OtcacheError, match="give a list, of one dimension"):
        seeds_of(3)
    assert seeds_of([3]) == (3,)
    for one, listed in (
        ("a cat", ["a cat"]),
        ({"image": 1}, [{"image": 1}]),
        ({"a cat"}, ["a cat"]),
    ):
        with pytest.raises(OtcacheError, match="give a list"):
            samples_of(one)
        assert samples_of(listed) == tuple(listed)
    cats, labels = {"prompt": "a cat"}, {"class_labels": 1}
    with pytest.raises(OtcacheError, match="measure others apart"):
        samples_of([cats, labels])
    assert samples_of([cats]) + samples_of([labels]) == (cats, labels)


@pytest.mark.parametrize("seeds", [range(3), np.arange(3), np.arange(3, dtype=np.uint8), (0, 1, 2)])
def test_seeds_are_integers_of_any_kind(seeds: Any) -> None:
    assert seeds_of(seeds) == (0, 1, 2)


def test_the_largest_seed_is_that_of_a_generator() -> None:
    assert seeds_of([2**64 - 1]) == (2**64 - 1,)
    for seed in (-1, 2**64, 1.0, True, "1", None):
        with pytest.raises(OtcacheError, match=r"seeds\[1\] must be an integer between 0 and 1844"):
            seeds_of([0, seed])


@given(PLAIN, PLAIN)
def test_plain_data_are_their_own_record(a: Any, b: Any) -> None:
    assert content({"x": a}) == {"x": a}
    assert (content(a) == content(b)) == (a == b)


def test_arrays_and_numbers_are_known_by_what_they_hold() -> None:
    zero = np.zeros((2, 3), np.float32)
    same = np.zeros((2, 6), np.float32)[:, ::2]
    assert content(zero) == content(same)
    others = [zero.T, zero.astype(float), zero + 1, zero[None], zero.ravel()]
    assert all(content(other) != content(zero) for other in others)
    assert content(np.int64(3)) == content(3)


def test_what_holds_no_data_has_no_address_in_its_record() -> None:
    record = content([object(), lambda: None, SimpleNamespace, samples_of])
    assert " at 0x" not in str(record)
    assert record == content([object(), lambda: None, SimpleNamespace, samples_of])


def test_a_text_is_the_mapping_of_its_prompt() -> None:
    assert keys_of("a") == keys_of({"prompt": "b"}) == {"prompt"}
    assert arguments_of("a") == {"prompt": "a"}
    assert brief("a") == ""
    assert brief({"class_labels": 3}) == "class_labels=3"
    pixels = [brief({"image": np.full((2, 2), value)}) for value in (0, 0, 1)]
    assert pixels[0] == pixels[1] != pixels[2]
