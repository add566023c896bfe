"""Loops of the user's own that do not do what they announced."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tiny
import torch

from otcache_core import ExecutionError, Schedule
from otcache_core.contracts import SampleRequest
from otcache_core.errors import OtcacheNotice
from otcache_core.loop import Loop
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.recording.probe import TorchProbe

N = 6
SCHEDULE = Schedule(N, (0, 2, 4))


class Elsewhere(torch.Tensor):
    """Represents a tensor of another device."""


#: How a loop may hand over the time.
KINDS: dict[str, Callable[[float], Any]] = {
    "number": float,
    "tensor": torch.tensor,
    "elsewhere": lambda t: torch.tensor(t).as_subclass(Elsewhere),
}


def _guided(net: Any, until: int = N, kind: str = "number") -> Callable[..., torch.Tensor]:
    """Return a sampler of two calls per step, of one from step ``until`` on."""

    def sample(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
        x, s = tiny.noise(len(seeds), 8), tiny.euler_grid(num_steps)
        with torch.no_grad():
            for i in range(num_steps):
                v = net(x, KINDS[kind](s[i]))
                if i < until:
                    v = 3 * v - 2 * net(x + 1, KINDS[kind](s[i]))
                x = x + (s[i + 1] - s[i]) * v
        return x

    return sample


# -- calls ----------------------------------------------------------------------------------------


def test_calls_per_step_that_was_forgotten_is_an_error() -> None:
    net = tiny.Velocity()
    loop = Loop(_guided(net), net)
    with (
        TorchExecutor().attach(loop, SCHEDULE),
        pytest.raises(
            ExecutionError,
            match=r"must make 6 denoiser calls \(6 steps, calls_per_step=1\), got one more: "
            r"set calls_per_step=2 in otcache\.loop\(\.\.\.\)",
        ),
    ):
        loop(["a"], [0], N)
    with pytest.raises(ExecutionError, match="set calls_per_step=2"):
        list(TorchProbe().record(loop, SampleRequest(("a",), (0,), N)))


def test_branches_of_a_loop_that_specified_them_keep_apart() -> None:
    net = tiny.Velocity()
    loop = Loop(_guided(net), net, calls_per_step=2)
    plain = loop(["a"], [0], N)
    with TorchExecutor().attach(loop, Schedule.full(N)):
        assert torch.equal(loop(["a"], [0], N), plain)
    with TorchExecutor().attach(loop, SCHEDULE) as run:
        loop(["a"], [0], N)
    assert (run.report.skipped, run.report.warnings) == ({"call": 3, "call#2": 3}, [])


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_that_ends_during_a_run_is_refused(kind: str) -> None:
    """Else the second branch would get outputs of the first."""
    net = tiny.Velocity()
    loop = Loop(_guided(net, 2, kind), net, calls_per_step=2)
    with (
        TorchExecutor().attach(loop, SCHEDULE),
        pytest.raises(ExecutionError, match="as in the first step, got two"),
    ):
        loop(["a"], [0], N)


def test_a_sampler_of_two_stages_may_make_fewer_calls_in_its_last_step(recwarn: Any) -> None:
    """Heun's method: its times differ within a step, and nothing is wrong."""
    net = tiny.Velocity()

    def heun(num_steps: int) -> torch.Tensor:
        x, s = tiny.noise(1, 8), tiny.euler_grid(num_steps)
        with torch.no_grad():
            for i in range(num_steps):
                v, h = net(x, s[i]), s[i + 1] - s[i]
                if i + 1 < num_steps:
                    v = (v + net(x + h * v, s[i + 1])) / 2
                x = x + h * v
        return x

    loop = Loop(heun, net, calls_per_step=2)
    with TorchExecutor().attach(loop, SCHEDULE) as run:
        loop(N)
    assert run.report.skipped == {"call": 3, "call#2": 2}
    assert not [w for w in recwarn if issubclass(w.category, OtcacheNotice)]


# -- steps ----------------------------------------------------------------------------------------


def _stops(net: Any, announced: int | None = None) -> Loop:
    """Make as many steps as it is called with, whatever was announced."""

    def sample(n: int) -> torch.Tensor:
        x = tiny.noise(1, 8)
        with torch.no_grad():
            for i in range(n):
                x = x - net(x, 1 - i / n) / n
        return x

    return Loop(sample, net, num_steps=announced)


def test_a_loop_that_returns_early_says_so_aloud() -> None:
    loop = _stops(tiny.Velocity(), announced=N)
    with (
        TorchExecutor().attach(loop, SCHEDULE) as run,
        pytest.warns(OtcacheNotice, match=r"returned after 4 of 6 denoiser calls \(6 steps"),
    ):
        loop(4)
    assert run.report.runs == 0
    assert any("returned after 4 of 6" in text for text in run.report.warnings)


def test_a_loop_that_makes_more_steps_is_an_error_and_the_next_run_is_clean() -> None:
    loop = _stops(tiny.Velocity(), announced=N)
    with TorchExecutor().attach(loop, SCHEDULE):
        wanted = loop(N)
        with pytest.raises(ExecutionError, match="if there are more steps"):
            loop(N + 1)
        assert torch.equal(loop(N), wanted)


@pytest.mark.parametrize("steps", [lambda n: 2 * n - 1, 2 * N - 1], ids=["function", "number"])
def test_the_calls_of_k_diffusion_s_heun_are_steps(steps: Any) -> None:
    """2n - 1 of n steps asked for: the argument of that name counts none of them."""
    net = tiny.Velocity()

    def sample(num_steps: int) -> torch.Tensor:
        x, s = tiny.noise(1, 8), tiny.euler_grid(num_steps)
        with torch.no_grad():
            for i in range(num_steps):
                v, h = net(x, s[i]), s[i + 1] - s[i]
                if s[i + 1] > 0:
                    v = (v + net(x + h * v, s[i + 1])) / 2
                x = x + h * v
        return x

    loop = Loop(sample, net, num_steps=steps)
    with TorchExecutor().attach(loop, Schedule(2 * N - 1, (0, 1, 4, 8))) as run:
        loop(num_steps=N)
    assert (run.report.runs, run.report.warnings) == (1, [])
    assert (run.report.computed, run.report.skipped) == ({"call": 4}, {"call": 2 * N - 5})


def test_a_recording_counts_the_steps_made_whatever_the_argument_is_called() -> None:
    net = tiny.Velocity()
    inner = tiny.euler_sampler(net)

    def sample(prompts: Any, seeds: Any, n: int) -> torch.Tensor:
        return inner(prompts, seeds, 2 * n - 1)

    loop = Loop(sample, net, num_steps=lambda n: 2 * n - 1)
    (run,) = TorchProbe().record(loop, SampleRequest(("a",), (0,), 4))
    assert run.num_steps == 7


def test_the_step_count_is_found_among_named_arguments_of_any_name() -> None:
    net = tiny.Velocity()
    sample = tiny.euler_sampler(net)
    loop = Loop(lambda **call: sample(["a"], [0], call["num_steps"]), net)
    with (
        TorchExecutor().attach(loop, SCHEDULE) as run,
        pytest.warns(OtcacheNotice, match="a run of 5 steps cannot follow a schedule of 6"),
    ):
        loop(num_steps=5)
    assert (run.report.runs, run.report.computed) == (1, {"call": 5})


# -- what changes from step to step ----------------------------------------------------------------


class Prompted(torch.nn.Module):
    """Answers with what it was asked, so that an output says where it comes from."""

    def forward(self, x: torch.Tensor, t: float, prompt: float) -> torch.Tensor:
        return torch.full_like(x, 100 * prompt) + round(N * (1 - t))


def _answers(asked: Callable[[int], list[float]], schedule: Schedule) -> list[list[float]]:
    """Return the prompt and the step that each call of each step was answered with, as 100 p + i."""
    net, answers = Prompted(), []

    def sample(num_steps: int) -> torch.Tensor:
        x = torch.zeros(1, 2)
        for i in range(num_steps):
            outputs = [net(x, 1 - i / num_steps, prompt) for prompt in asked(i)]
            answers.append([float(output[0, 0]) for output in outputs])
        return x

    loop = Loop(sample, net, calls_per_step=len(asked(0)))
    with TorchExecutor().attach(loop, schedule):
        loop(N)
    return answers


def test_a_switched_prompt_counts_from_the_next_computed_step_on() -> None:
    """As from a callback: compute the step of the switch."""
    switched = [1.0 if i < 3 else 2.0 for i in range(N)]
    late = _answers(lambda i: [switched[i]], Schedule(N, (0, 2, 4)))
    assert late == [[100], [100], [102], [102], [204], [204]]
    exact = _answers(lambda i: [switched[i]], Schedule(N, (0, 3)))
    assert exact == [[100]] * 3 + [[203]] * 3


def test_windows_that_shift_are_forecast_by_their_order() -> None:
    answers = _answers(lambda i: [1.0 + i, 2.0 + i], SCHEDULE)
    assert answers == [[100, 200]] * 2 + [[302, 402]] * 2 + [[504, 604]] * 2


# -- threads --------------------------------------------------------------------------------------


def test_a_run_that_another_thread_begins_is_refused_and_the_first_goes_on() -> None:
    net, inside, go_on = tiny.Velocity(), threading.Event(), threading.Event()
    s = tiny.euler_grid(N)

    def sample(num_steps: int, waits: bool = False) -> torch.Tensor:
        x = tiny.noise(1, 8)
        with torch.no_grad():
            for i in range(num_steps):
                if waits and i == 3:
                    inside.set()
                    go_on.wait(60)
                x = x + (s[i + 1] - s[i]) * net(x, s[i])
        return x

    loop = Loop(sample, net)
    with TorchExecutor().attach(loop, SCHEDULE) as run, ThreadPoolExecutor(1) as other:
        wanted = loop(N)
        first = other.submit(loop, N, True)
        inside.wait(60)
        with pytest.raises(ExecutionError, match="got a second before the first has ended"):
            loop(N)
        go_on.set()
        assert torch.equal(first.result(), wanted)
        assert torch.equal(loop(N), wanted)
    assert (run.report.runs, run.report.warnings) == (3, [])


@pytest.mark.remedy("let it return s_0 .. s_N")
@pytest.mark.parametrize("grid", [lambda n: n // 0, lambda n: "high"])
def test_a_grid_that_fails_is_not_known_and_steps_are_counted(grid: Any) -> None:
    net = tiny.Velocity()
    reported = []
    for of in (grid, lambda n: range(n, -1, -1)):
        loop = Loop(_stops(net).sample_fn, net, of, num_steps=N)
        with TorchExecutor().attach(loop, Schedule(N, (0, 1), "linear")) as run:
            loop(N)
        assert run.report.skipped == {"call": N - 2}
        reported.append(["fails for" in text for text in run.report.warnings])
    assert reported == [[True], []]


def test_a_loop_of_unknown_length_is_computed_and_says_what_to_give() -> None:
    net = tiny.Velocity()
    loop = _stops(net)
    wanted = loop(N)
    plan: Any = lambda grid: Schedule(len(grid) - 1, (0,))  # noqa: E731
    with TorchExecutor().attach(loop, plan) as run:
        with pytest.warns(OtcacheNotice, match="number of steps must be known"):
            assert torch.equal(loop(N), wanted)
        assert torch.equal(loop(N), wanted)
    assert (run.report.skipped, len(run.report.warnings)) == ({}, 1)
    with TorchExecutor().attach(loop, plan, strict=True):
        for _ in range(2):
            with pytest.raises(ExecutionError, match="number of steps must be known"):
                loop(N)


def test_a_pipeline_s_run_is_not_replaced_during_its_call() -> None:
    case = tiny.flux()
    refused: list[BaseException] = []

    def meddle(module: Any, args: Any) -> None:
        with ThreadPoolExecutor(1) as other:
            error = other.submit(case.pipe.scheduler.set_timesteps, sigmas=[1.0, 0.5]).exception()
        assert error is not None
        refused.append(error)

    part = next(m for m in case.denoiser.modules() if isinstance(m, torch.nn.Linear))
    part.register_forward_pre_hook(meddle)
    with TorchExecutor().attach(case.pipe, Schedule(1, (0,))):
        case(1)
    assert [type(error) for error in refused] == [ExecutionError]
    assert len(case.pipe.scheduler.timesteps) == 1
    assert "must serve one run at a time" in str(refused[0])
