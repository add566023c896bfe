"""Results instead of exceptions."""

from __future__ import annotations

import inspect
import pickle
import weakref
from typing import Any

import pytest

import otcache
from otcache.attempts import attemptable
from otcache.media import run_once
from otcache_core import FileError, Provenance, Schedule, ScheduleError


class Thing:
    """May be pointed at weakly."""


def test_a_result_is_done() -> None:
    tried = otcache.attempt(Schedule, 4, computed=(0, 2))
    assert tried == otcache.Done(Schedule(4, (0, 2)))
    assert tried.ok
    assert tried.error is None


def test_what_its_user_can_cause_is_returned_as_it_is_typed() -> None:
    tried = otcache.attempt(otcache.load_policy, "nowhere")
    assert not tried.ok
    assert type(tried.error) is FileError
    assert "nowhere" in str(tried.error)
    assert tried.value is None
    match tried:
        case otcache.Failed(error):
            assert error is tried.error
        case otcache.Done():
            pytest.fail("there is no such file")


@pytest.mark.parametrize("error", [TypeError, KeyboardInterrupt, ValueError])
def test_everything_else_is_raised(error: type[BaseException]) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(error):
        otcache.attempt(fails)
    with pytest.raises(error):
        attemptable(fails)(throw=False)


def test_an_error_that_is_kept_holds_nothing_of_the_call() -> None:
    seen: list[weakref.ref[Thing]] = []

    def inner() -> None:
        large = Thing()
        seen.append(weakref.ref(large))
        raise FileError("inner")

    def outer() -> None:
        large = Thing()
        seen.append(weakref.ref(large))
        try:
            inner()
        except FileError as error:
            raise ScheduleError("outer") from error

    tried = otcache.attempt(outer)
    assert [kept() for kept in seen] == [None, None]
    assert isinstance(tried.error, ScheduleError)
    assert tried.error.__traceback__ is not None


def test_errors_of_any_shape_are_forgotten_and_end() -> None:
    """One that is its own cause, or a context that is not shown; what a caller handles is left alone."""
    seen: list[weakref.ref[Thing]] = []

    def inner() -> None:
        large = Thing()
        seen.append(weakref.ref(large))
        raise FileError("inner")

    def itself() -> None:
        try:
            inner()
        except FileError as error:
            raise error from error

    def hidden() -> None:
        try:
            inner()
        except FileError:
            raise ScheduleError("outer") from None

    try:
        inner()
    except FileError:
        kept = [otcache.attempt(itself), otcache.attempt(hidden)]
        assert [ref() is None for ref in seen] == [False, True, True]
    assert not any(tried.ok for tried in kept)


ONE = Schedule(4, (0,))
POLICY = otcache.Policy(ONE, ONE, Provenance(4))
VERBS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "calibrate": (otcache.calibrate, (Thing(), ["a"], 4)),
    "plan": (otcache.plan, ("no calibration",)),
    "run_once": (run_once, (Thing(), POLICY, 4, "a")),
}


@pytest.mark.parametrize("name", VERBS)
def test_the_verbs_return_their_errors_when_asked(name: str) -> None:
    verb, given = VERBS[name]
    with pytest.raises(otcache.OtcacheError) as raised:
        verb(*given)
    with pytest.raises(otcache.OtcacheError):
        verb(*given, throw=True)
    tried = verb(*given, throw=False)
    assert str(tried.error) == str(raised.value)
    assert type(tried.error) is type(raised.value)


@pytest.mark.parametrize("name", VERBS)
def test_the_verbs_are_what_they_were(name: str) -> None:
    verb = VERBS[name][0]
    names = list(inspect.signature(verb).parameters)
    assert names[-1] == ("throw" if name == "run_once" else "call")
    assert "throw" in names
    assert "Raises:" in verb.__doc__
    assert pickle.loads(pickle.dumps(verb)) is verb
