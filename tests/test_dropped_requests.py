"""Requests that nobody can leave any more, and handles that are copied."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toy import STEPS, make_loop

import otcache
from otcache_core import Provenance, Schedule


def _policy() -> otcache.Policy:
    return otcache.Policy(
        Schedule(STEPS, (0, 3)), Schedule(STEPS, (0, 2, 4, 6, 9)), Provenance(STEPS)
    )


@pytest.fixture
def loop() -> otcache.Loop:
    return make_loop()


@pytest.fixture
def handle(loop: otcache.Loop) -> Iterator[otcache.Enabled]:
    handle = otcache.enable(loop, _policy())
    yield handle
    handle.remove()


def _calls(loop: otcache.Loop) -> int:
    loop.denoiser.calls = 0
    with torch.no_grad():
        loop(["a"], [0], STEPS)
    return int(loop.denoiser.calls)


@pytest.mark.remedy("write 'with handle.request(...)', or keep the request and call its __exit__")
def test_a_request_that_nobody_can_leave_ends_with_a_notice(
    loop: otcache.Loop, handle: otcache.Enabled
) -> None:
    def enter() -> None:
        with pytest.warns(otcache.OtcacheNotice, match="was entered and never left"):
            handle.request(3).__enter__()

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    with handle.request(5):  # would wait for ever
        assert _calls(loop) == 5
    enter()
    handle.set_budget(4)  # nor is a change one inside a request
    assert _calls(loop) == 4
    kept = handle.request(6)
    kept.__enter__()
    assert _calls(loop) == 6
    kept.__exit__(None, None, None)
    assert _calls(loop) == 4


def test_no_thread_starts_while_the_interpreter_goes_down(
    monkeypatch: pytest.MonkeyPatch, handle: otcache.Enabled
) -> None:
    """It would wait for ever for its first sign of life, and the program would not end."""
    request = handle.request(3)
    request.__enter__()
    opened = request._open
    assert opened is not None
    with monkeypatch.context() as end:
        end.setattr(sys, "is_finalizing", lambda: True)
        end.setattr(handle, "_drop", pytest.fail)
        request.__del__()
    handle._close(*opened)


def test_a_copy_of_a_request_is_a_request_of_its_own(
    loop: otcache.Loop, handle: otcache.Enabled
) -> None:
    request = handle.request(3)
    with request:
        copy.copy(request)  # let go of at once
        assert _calls(loop) == 3
    with copy.copy(request):
        assert _calls(loop) == 3


@pytest.mark.remedy(
    "save the policy with policy.save(...), and call otcache.enable(pipe, otcache.load_policy(...))"
)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_handle_is_not_copied(handle: otcache.Enabled, copied: object, tmp_path: Path) -> None:
    with pytest.raises(otcache.ExecutionError, match="belongs to its pipeline"):
        copied(handle)  # type: ignore[operator]  # one of three functions
    other, path = make_loop(), tmp_path / "policy.otcache"
    _policy().save(path)
    again = otcache.enable(other, otcache.load_policy(path), 3)
    assert _calls(other) == 3
    again.remove()
