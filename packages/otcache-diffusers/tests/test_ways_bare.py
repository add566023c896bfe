"""Bare modules in loops otcache does not know: only the calls show where a run is."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from otcache_core import ExecutionError, Schedule
from otcache_core.errors import OtcacheNotice
from otcache_core.loop import Loop
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks.call_times import HostTimes

N = 8
SCHEDULE = Schedule(N, (0, 2, 4, 6))
GRID = tiny.euler_grid(N)


class Elsewhere(torch.Tensor):
    """Represents a tensor of another device: what is made of it may be read at the end only."""


#: How a loop may hand over the time.
KINDS: dict[str, Callable[[float], Any]] = {
    "number": float,
    "tensor": torch.tensor,
    "elsewhere": lambda t: torch.tensor(t).as_subclass(Elsewhere),
}
ON_HOST = ["number", "tensor"]


class Net(torch.nn.Module):
    """v(x, t) that never asks for its time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny.Velocity()

    def forward(self, x: torch.Tensor, t: Any) -> torch.Tensor:
        time = torch.as_tensor(t).as_subclass(torch.Tensor).reshape(1, 1).expand(len(x), 1)
        return self.inner.layers(torch.cat([x, time], dim=1))


class BreakOffError(Exception):
    """What ends a run between two calls."""


def plain(net: Any, kind: str = "number", seed: int = 1, end: int = N, times: Any = GRID) -> Any:
    """One call per step; breaks off at step ``end``."""
    x = tiny.noise(1, 8, seed=seed)
    with torch.no_grad():
        for i in range(N):
            if i == end:
                raise BreakOffError
            x = x + (GRID[i + 1] - GRID[i]) * net(x, KINDS[kind](times[i]))
    return x


def guided(net: Any, kind: str = "number", until: int = N) -> tuple[Any, list[Any]]:
    """Two calls per step, one from step ``until`` on: the result, and the outputs of each step."""
    x, seen = tiny.noise(1, 8), []
    with torch.no_grad():
        for i in range(N):
            t = KINDS[kind](GRID[i])
            pair = [net(x, t), net(x + 1, t)] if i < until else [net(x, t)]
            seen.append(pair)
            x = x + (GRID[i + 1] - GRID[i]) * (3 * pair[0] - 2 * pair[-1])
    return x, seen


# -- branches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_two_calls_of_one_time_are_refused_unless_specified(kind: str) -> None:
    net = Net()
    with (
        TorchExecutor().attach(net, SCHEDULE),
        pytest.raises(ExecutionError, match=r"two times, got one: set calls_per_step=2"),
    ):
        guided(net, kind)
    assert torch.equal(guided(net, kind)[0], guided(net)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_branches_that_were_specified_keep_apart(kind: str) -> None:
    net = Net()
    with TorchExecutor().attach(net, SCHEDULE, calls_per_step=2) as run:
        _, seen = guided(net, kind)
    for step, before in ((s, s - s % 2) for s in range(N)):
        assert [torch.equal(a, b) for a, b in zip(seen[step], seen[before], strict=True)] == [
            True
        ] * 2
        assert not torch.equal(*seen[step])
    assert (run.report.runs, run.report.warnings) == (1, [])
    assert run.report.skipped == {"call": 4, "call#2": 4}


def test_everything_computed_is_bit_identical_with_two_calls_a_step() -> None:
    net = Net()
    wanted = guided(net)[0]
    with TorchExecutor().attach(net, Schedule.full(N), calls_per_step=2):
        assert torch.equal(guided(net)[0], wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_that_ends_during_a_run_is_refused(kind: str) -> None:
    """Else the second branch would get outputs of the first."""
    net = Net()

    def twice() -> None:  # a run is over, for who only counts, in the middle of the second
        for _ in range(2):
            guided(net, kind, until=4)

    with (
        TorchExecutor().attach(net, SCHEDULE, calls_per_step=2),
        pytest.raises(ExecutionError, match=r"one time, as in the first step, got two"),
    ):
        twice()


@pytest.mark.filterwarnings("ignore:the first two steps")
def test_a_third_call_a_step_is_refused() -> None:
    net = Net()

    def thrice() -> None:
        for t in GRID[:-1]:
            for shift in range(3):
                net(tiny.noise(1, 8) + shift, t)

    with (
        TorchExecutor().attach(net, SCHEDULE, calls_per_step=2),
        pytest.raises(ExecutionError, match="as in the first step, got two"),
    ):
        thrice()


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_one_time_may_be_specified_as_steps(kind: str) -> None:
    """As in Heun's method: its second stage and the next step's first carry one time."""
    net = Net()
    times = [GRID[0], *(GRID[k] for k in range(1, N) for _ in range(2))][:N]
    with TorchExecutor().attach(net, SCHEDULE, calls_per_step=1) as run:
        plain(net, kind, times=times)
    assert (run.report.skipped, run.report.warnings) == ({"call": 4}, [])
    with (
        TorchExecutor().attach(net, SCHEDULE),
        pytest.raises(ExecutionError, match="calls_per_step=1 if these are steps of their own"),
    ):
        plain(net, kind, times=times)


@pytest.mark.parametrize("kind", KINDS)
def test_two_first_steps_of_one_time_are_noticed_if_the_calls_were_specified(kind: str) -> None:
    net = Net()
    with (
        TorchExecutor().attach(net, SCHEDULE, calls_per_step=1),
        pytest.warns(OtcacheNotice, match="the first two steps carry the same time"),
    ):
        plain(net, kind, times=[GRID[0], *GRID[:-2]])


class Labelled(Net):
    """A class comes second, and the time has an unusual name."""

    def forward(self, x: torch.Tensor, label: Any, hour: Any) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x, hour) + label


@pytest.mark.parametrize("label", [3, torch.tensor([3])], ids=["number", "tensor"])
def test_a_class_is_not_taken_for_a_time_that_repeats(label: Any) -> None:
    net = Labelled()
    with TorchExecutor().attach(net, SCHEDULE) as run:
        plain(lambda x, t: net(x, label, t))
    assert (run.report.runs, run.report.warnings) == (1, [])


class Third(Net):
    """The time comes third, by its usual name."""

    def forward(self, x: torch.Tensor, text: Any, timestep: Any) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x, timestep)


def test_the_time_is_found_by_the_name_of_its_parameter() -> None:
    net, text = Third(), torch.zeros(1)
    with TorchExecutor().attach(net, SCHEDULE) as run:
        plain(lambda x, t: net(x, text, t))
    assert (run.report.runs, run.report.warnings) == (1, [])
    with (
        TorchExecutor().attach(net, SCHEDULE),
        pytest.raises(ExecutionError, match="calls_per_step=2"),
    ):
        guided(lambda x, t: net(x, text, t))


# -- where a run begins and ends ------------------------------------------------------------------


def _fresh(net: Any, seed: int) -> torch.Tensor:
    with TorchExecutor().attach(net, SCHEDULE):
        return plain(net, seed=seed)


def _broken(net: Any, kind: str, end: int = 3) -> None:
    with pytest.raises(BreakOffError):
        plain(net, kind, seed=1, end=end)


@pytest.mark.parametrize("kind", ON_HOST)
def test_a_run_that_broke_off_does_not_shift_the_next(kind: str) -> None:
    net = Net()
    wanted = _fresh(net, 2)
    with TorchExecutor().attach(net, SCHEDULE):
        _broken(net, kind)
        with pytest.warns(OtcacheNotice, match="another run began after 3 of the 8 calls"):
            assert torch.equal(plain(net, kind, seed=2), wanted)


def test_a_run_shifted_by_one_that_broke_off_is_refused_where_the_device_knows() -> None:
    net = Net()
    wanted = _fresh(net, 2)
    with TorchExecutor().attach(net, SCHEDULE):
        _broken(net, "elsewhere")
        with pytest.raises(ExecutionError, match=r"broken off unseen.*otcache\.loop\(\.\.\.\)"):
            plain(net, "elsewhere", seed=2)
        assert torch.equal(plain(net, "elsewhere", seed=2), wanted)


def test_what_the_device_has_seen_is_said_on_exit() -> None:
    net = Net()
    driven = TorchExecutor().attach(net, SCHEDULE)
    run = driven.__enter__()
    for end in (3, 2):
        _broken(net, "elsewhere", end)
    with pytest.warns(OtcacheNotice) as heard:
        driven.__exit__(None, None, None)
    said = [str(warning.message) for warning in heard]
    assert any("the time must not return to the first one" in text for text in said)
    assert any("the context was left after 5 of the 8 calls of a run" in text for text in said)
    assert set(said) <= set(run.report.warnings)


def test_a_run_that_broke_off_after_one_call_is_not_passed_over() -> None:
    net = Net()
    wanted = _fresh(net, 2)
    with TorchExecutor().attach(net, SCHEDULE):
        _broken(net, "number", end=1)
        with pytest.raises(ExecutionError, match="broke off after its first call looks so too"):
            plain(net, seed=2)
        assert torch.equal(plain(net, seed=2), wanted)


class _Reads(TorchDispatchMode):
    """Counts what synchronizes."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        words = ("_local_scalar_dense", "nonzero", "equal")
        self.count += any(word == func.__name__.split(".")[0] for word in words)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("calls", [None, 1, 2])
def test_the_device_is_asked_at_the_end_of_a_run_only(calls: int | None) -> None:
    net = Net()
    counts = []
    with (
        TorchExecutor().attach(net, SCHEDULE, calls_per_step=calls),
        torch.no_grad(),
        _Reads() as reads,
    ):
        for _ in range(2):
            for t in GRID[:-1]:
                for _ in range(calls or 1):
                    net(tiny.noise(1, 8), KINDS["elsewhere"](t))
                    counts.append(reads.count)
    whole = N * (calls or 1)
    assert counts == [0] * (whole - 1) + [1] * whole + [2]


def test_a_batch_that_halves_within_a_run_begins_another_and_is_never_mixed() -> None:
    net, sizes = Net(), []

    def halves() -> None:
        for i, t in enumerate(GRID[:-1]):
            x = tiny.noise(2 if i < 3 else 1, 8)
            sizes.append((len(x), len(net(x, t))))

    with TorchExecutor().attach(net, SCHEDULE):
        said = _heard(halves)
    assert all(given == got for given, got in sizes)
    assert ["another run began after 3 of the 8 calls" in text for text in said] == [True, False]


# -- solvers that choose their own steps ----------------------------------------------------------


def _adaptive(net: Any, kind: str, h: float) -> int:
    """Euler's method whose steps are halved until two of half the size agree; the number of calls."""
    x, t, calls = tiny.noise(1, 8), 1.0, 0
    with torch.no_grad():
        while t > 1e-6:
            h = min(h, t)
            v = net(x, KINDS[kind](t))
            half = x - h / 2 * v
            w = net(half, KINDS[kind](t - h / 2))
            calls += 2
            if h / 2 * float((w - v).norm()) > 0.01:
                h /= 2
            else:
                x, t, h = half - h / 2 * w, t - h, 2 * h
    return calls


def _heard(act: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        act()
    assert {w.filename for w in heard} <= {__file__}
    return [str(w.message) for w in heard if issubclass(w.category, OtcacheNotice)]


@pytest.mark.parametrize(
    ("h", "sign"),
    [
        (0.5, "another run began after 2"),
        (0.25, "the time goes back within a run, from 0.5 to 0.75"),
    ],
    ids=["in the first step", "later"],
)
@pytest.mark.parametrize("kind", ON_HOST)
def test_a_solver_that_rejects_steps_is_said_at_the_first_sign(
    kind: str, h: float, sign: str
) -> None:
    net = Net()
    plain_calls = _adaptive(net, kind, h)
    schedule = Schedule(plain_calls, (0, 1, 2, 3, *range(4, plain_calls, 2)))
    with TorchExecutor().attach(net, schedule, calls_per_step=1) as run:
        said = _heard(lambda: [_adaptive(net, kind, h) for _ in range(3)])
    assert sign in said[0]
    assert "use a fixed-step method of the same library" in said[0]
    assert set(said) <= set(run.report.warnings)
    assert len(said) == len(set(said)) <= 4


@pytest.mark.parametrize("kind", ON_HOST)
def test_a_time_that_goes_back_is_said_once(kind: str) -> None:
    times = [1.0, 0.9, 0.7, 0.8, 0.5, 0.6, 0.4, 0.3]
    net = Net()
    with TorchExecutor().attach(net, SCHEDULE):
        (said,) = _heard(lambda: [plain(net, kind, times=times) for _ in range(2)])
    assert "the time goes back within a run, from 0.7 to 0.8" in said


@pytest.mark.parametrize(
    ("form", "known"),
    [
        (lambda t: torch.full((3, 1), t, dtype=torch.bfloat16), True),
        (lambda t: torch.full((3,), t).numpy(), True),
        (lambda t: torch.tensor([t, t + 1]), False),
        (lambda t: torch.tensor([]), False),
        (lambda t: torch.tensor(complex(t, 1)), False),
        (lambda t: torch.empty(1, device="meta"), False),
        (lambda t: None, False),
    ],
)
def test_times_are_compared_if_they_are_one_number(
    form: Callable[[float], Any], known: bool
) -> None:
    times = HostTimes()
    assert times.begin(form(0.5)) == ""
    assert [bool(times.advance(form(t))) for t in (0.25, 0.5, 0.25)] == [False, known, False]
    assert bool(times.begin(form(0.75))) == known


@pytest.mark.parametrize("kind", ON_HOST)
def test_a_run_that_begins_at_another_time_is_said_once(kind: str) -> None:
    """One call more than announced: the next run is shifted."""
    net, x = Net(), tiny.noise(1, 8)

    def runs() -> None:
        for _ in range(3):
            for t in tiny.euler_grid(N + 1)[:-1]:
                net(x, KINDS[kind](t))

    with TorchExecutor().attach(net, SCHEDULE, calls_per_step=1):
        said = _heard(runs)
    (other,) = [text for text in said if "begins at time" in text]
    last = tiny.euler_grid(N + 1)[N]
    assert f"a run begins at time {last:g}, and the last one began at 1: runs are counted" in other


@pytest.mark.parametrize("kind", KINDS)
def test_runs_as_announced_are_not_remarked_on(kind: str) -> None:
    net = Net()
    up = [1 - t for t in GRID]
    for times in (GRID, up):
        with TorchExecutor().attach(net, SCHEDULE) as run:
            assert (
                _heard(lambda times=times: [plain(net, kind, times=times) for _ in range(2)]) == []
            )
        assert run.report.runs == 2


# -- threads --------------------------------------------------------------------------------------


def test_a_call_of_another_thread_between_two_calls_spoils_neither_in_silence() -> None:
    """Where the first thread's run goes on, its rest would pass for a run of its own."""
    net, x = Net(), tiny.noise(1, 8)
    with TorchExecutor().attach(net, SCHEDULE), torch.no_grad(), ThreadPoolExecutor(1) as other:
        for t in GRID[:3]:
            net(x, t)
        with pytest.raises(ExecutionError, match="calls of two threads within a run"):
            other.submit(net, x, GRID[1]).result()
        with pytest.raises(ExecutionError, match="calls of two threads within a run"):
            net(x, GRID[3])
        assert torch.equal(plain(net), _in_thread(lambda: plain(net)))


def test_runs_of_a_server_s_threads_follow_one_another() -> None:
    """One of them broke off: the next thread's run begins where its time does."""
    net = Net()
    wanted = _fresh(net, 2)
    with TorchExecutor().attach(net, SCHEDULE), warnings.catch_warnings():
        warnings.simplefilter("ignore", OtcacheNotice)
        _broken(net, "tensor")
        assert torch.equal(_in_thread(lambda: plain(net, "tensor", seed=2)), wanted)


def _in_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as other:
        return other.submit(work).result()


def test_a_call_during_another_thread_s_call_leaves_that_alone() -> None:
    net = Net()
    wanted = _fresh(net, 1)
    inside, go_on = threading.Event(), threading.Event()

    def wait(module: Any, args: Any) -> None:
        inside.set()
        go_on.wait(60)

    handle = net.inner.layers.register_forward_pre_hook(wait)
    with TorchExecutor().attach(net, SCHEDULE), ThreadPoolExecutor(1) as other:
        first = other.submit(plain, net)
        inside.wait(60)
        for shape in (1, 2):  # another shape looks like another run
            with pytest.raises(ExecutionError, match="one run at a time, got a concurrent call"):
                net(tiny.noise(shape, 8), GRID[0])
        handle.remove()
        go_on.set()
        assert torch.equal(first.result(), wanted)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "calls", "message"),
    [
        (Net, 0, "calls_per_step must be an integer of at least 1, got 0"),
        (lambda: Loop(plain, Net()), 2, r"given for a bare module, got Loop: .* otcache\.loop\("),
        (lambda: tiny.flux().pipe, 1, "given for a bare module, got FluxPipeline"),
    ],
)
def test_calls_per_step_is_for_bare_modules(target: Any, calls: int, message: str) -> None:
    with (
        pytest.raises(ExecutionError, match=message),
        TorchExecutor().attach(target(), SCHEDULE, calls_per_step=calls),
    ):
        pass
