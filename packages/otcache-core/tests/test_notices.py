"""Notices come once, and point at the user's line."""

from __future__ import annotations

import inspect
import logging
import threading
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otcache_core.errors import OtcacheNotice, PluginWarning
from otcache_core.notices import notices_to, notify, once


def _heard(act: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        act()
    assert all(issubclass(w.category, OtcacheNotice) for w in heard)
    return [str(w.message) for w in heard]


@settings(deadline=None)
@given(said=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "y"]))))
def test_each_message_and_each_fact_is_given_once(said: list[tuple[str, str]]) -> None:
    def act() -> None:
        with once():
            for message, key in said:
                notify(message, key=key)

    wanted, known = [], set[str]()
    for message, key in said:
        if not known & {message, key} - {""}:
            wanted.append(message)
            known |= {message, key} - {""}
    assert _heard(act) == wanted


def test_outside_of_any_context_each_is_given_each_time() -> None:
    assert _heard(lambda: [notify("a"), notify("a", category=PluginWarning)]) == ["a", "a"]


def test_contexts_are_one_inside_another_and_may_share_what_was_given() -> None:
    shared: set[str] = set()

    def act() -> None:
        for _ in range(2):
            with once(shared):
                notify("kept over contexts")
                with once():
                    notify("kept over contexts")
            with once():
                notify("of one context")

    assert _heard(act) == ["kept over contexts", "of one context", "of one context"]


def test_a_context_is_of_its_own_thread_and_ends_with_an_exception() -> None:
    def in_two_threads() -> None:
        notify("a")
        other = threading.Thread(target=notify, args=("a",))
        other.start()
        other.join()
        raise KeyError

    def act() -> None:
        with pytest.raises(KeyError), once():
            in_two_threads()
        notify("a")

    assert _heard(act) == ["a", "a", "a"]


def _through_packages(names: list[str], message: str) -> None:
    """Call ``notify`` through functions of other packages."""
    call: Any = lambda: notify(message)  # noqa: E731  # it is put behind others
    for name in names:
        space: dict[str, Any] = {"__name__": name, "call": call}
        exec("def pass_on():\n    call()\n", space)  # a frame of that package
        call = space["pass_on"]
    call()


@pytest.mark.parametrize(
    "names", [[], ["otcache_core.policy", "otcache"], ["torch.nn.modules.module", "diffusers.x"]]
)
def test_a_notice_points_at_the_line_of_the_user_s_program(names: list[str]) -> None:
    with pytest.warns(OtcacheNotice) as heard:
        _through_packages(names, "a")
    assert heard[0].filename == __file__
    lines, start = inspect.getsourcelines(_through_packages)
    assert start <= heard[0].lineno < start + len(lines)


def test_a_logger_gets_notices_in_every_thread_instead_of_warnings(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notices_to(logging.getLogger("service"))
    try:
        with warnings.catch_warnings(), once():
            warnings.simplefilter("error")
            notify("100 % of it")
            notify("100 % of it")
            thread = threading.Thread(target=lambda: notify("b", category=PluginWarning))
            thread.start()
            thread.join()
    finally:
        notices_to(None)
    assert [r.getMessage() for r in caplog.records] == ["100 % of it", "b"]
    assert [vars(r)["notice"] for r in caplog.records] == ["OtcacheNotice", "PluginWarning"]
    assert {(r.name, r.levelname, r.pathname) for r in caplog.records} == {
        ("service", "WARNING", __file__)
    }
    assert _heard(lambda: notify("c")) == ["c"]
