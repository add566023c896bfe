"""A denoiser that is not a torch module, called through ``loop.denoiser``."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from otcache_core.callable_denoiser import CallableDenoiser, attach, detach, name_of
from otcache_core.errors import ExecutionError, OtcacheError
from otcache_core.loop import Loop


def halve(x: float, t: float, *, scale: float = 1.0) -> float:
    """Return a denoiser."""
    return scale * (x - t) / 2


class Wrapper:
    """An object around a denoiser, as k-diffusion's are."""

    sigma_data = 0.5

    def __call__(self, x: float, t: float, *, scale: float = 1.0) -> float:
        return halve(x, t, scale=scale)

    def method(self, x: float, t: float, *, scale: float = 1.0) -> float:
        return halve(x, t, scale=scale)


KINDS = {
    "function": halve,
    "method": Wrapper().method,
    "partial": functools.partial(halve, scale=1.0),
    "object": Wrapper(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_calls_pass_unchanged_and_the_signature_is_kept(kind: str) -> None:
    proxy = CallableDenoiser(KINDS[kind])
    assert proxy(3.0, t=1.0, scale=2.0) == 2.0
    assert inspect.signature(proxy) == inspect.signature(KINDS[kind])


@pytest.mark.remedy("leave that context first, or make a second loop with a denoiser of its own")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_attached_sees_each_call_and_leaves_no_trace(kind: str) -> None:
    proxy, seen = CallableDenoiser(KINDS[kind]), []

    def ask(args: Any, kwargs: Any, compute: Any) -> Any:
        seen.append((args, kwargs))
        return -compute()

    attach(proxy, ask)
    assert proxy(3.0, t=1.0) == -1.0
    with pytest.raises(ExecutionError, match="already accelerated or recorded by otcache"):
        attach(proxy, ask)
    assert copy.copy(proxy)(3.0, 1.0) == copy.deepcopy(proxy)(3.0, 1.0) == 1.0
    attach(CallableDenoiser(KINDS[kind]), ask)  # of a second loop
    detach(proxy)
    assert proxy(3.0, 1.0) == 1.0
    attach(proxy, ask)
    assert seen == [((3.0,), {"t": 1.0})]


def test_attributes_pass_through_however_they_are_used() -> None:
    wrapped = Wrapper()
    proxy = CallableDenoiser(wrapped)
    assert proxy.sigma_data == 0.5
    proxy.sigma_data = 2.0
    assert wrapped.sigma_data == 2.0
    del proxy.sigma_data
    assert vars(wrapped) == {}
    with pytest.raises(AttributeError, match="'Wrapper' object has no attribute 'sigma_max'"):
        _ = proxy.sigma_max


def test_a_pickle_is_plain() -> None:
    proxy = CallableDenoiser(halve)
    attach(proxy, lambda args, kwargs, compute: 0.0)
    assert pickle.loads(pickle.dumps(proxy))(3.0, 1.0) == 1.0


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("function", "halve"),
        ("method", "Wrapper.method"),
        ("partial", "halve"),
        ("object", "Wrapper"),
    ],
)
def test_names_say_what_is_called(kind: str, name: str) -> None:
    assert name_of(CallableDenoiser(KINDS[kind])) == name_of(KINDS[kind]) == name


def test_one_proxy_serves_two_loops() -> None:
    """Else the second would not know that the first is driven."""
    first = Loop(lambda: None, halve)
    assert Loop(lambda: None, first.denoiser).denoiser is first.denoiser
    first.denoiser = Wrapper()
    assert isinstance(first.denoiser, CallableDenoiser)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, r"a callable that sample_fn calls as loop\.denoiser\(\.\.\.\), got 'int'"),
        pytest.param(
            Wrapper,
            r"no class, got <class .*: make an instance, Wrapper\(\.\.\.\)",
            marks=pytest.mark.remedy("make an instance, {}(...)."),
        ),
    ],
)
def test_what_cannot_denoise_is_refused(value: Any, message: str) -> None:
    with pytest.raises(OtcacheError, match=message):
        Loop(lambda: None, value)
    assert Loop(lambda: None, Wrapper()).denoiser is not None


class Watch:
    """An observer that records its calls."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def loop_begins(self, num_steps: int | None) -> None:
        self.seen.append(num_steps)

    def loop_ends(self, result: Any) -> None:
        self.seen.append(result)

    def loop_fails(self) -> None:
        self.seen.append("failed")


@pytest.mark.remedy("call it as loop.denoiser(...), with loop what otcache.loop(...) returned")
def test_a_sampler_that_passes_the_proxy_by_is_refused() -> None:
    watch, loop = Watch(), Loop(lambda num_steps: halve(3.0, 1.0), halve)
    assert loop(2) == 1.0  # nothing is attached, nothing is wrong
    loop.observe(watch)
    with pytest.raises(
        ExecutionError, match=r"call it as loop\.denoiser\(\.\.\.\), with loop what"
    ):
        loop(2)
    assert watch.seen == [2, "failed"]
    plain = copy.copy(loop)  # an observer stays with its own loop
    assert plain(2) == 1.0
    held = SimpleNamespace()
    held.loop = Loop(lambda num_steps: held.loop.denoiser(3.0, 1.0), halve)
    held.loop.observe(watch)
    assert held.loop(2) == 1.0
    assert watch.seen[2:] == [2, 1.0]
