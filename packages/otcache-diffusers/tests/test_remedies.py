"""What an error advises about loops and modules is done here, and the error is gone."""

from __future__ import annotations

import contextvars
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from otcache_core import ExecutionError, Schedule
from otcache_core.contracts import CacheStorage, Forecaster, SampleRequest
from otcache_core.errors import OtcacheError, OtcacheNotice
from otcache_core.forecasters import Reuse
from otcache_core.loop import Loop
from otcache_core.playback import playback_table
from otcache_core.storage.recordings import RecordingStorage
from otcache_diffusers.execution.block_stacks import _plus
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.export import export_sigmas
from otcache_diffusers.hooks.call_times import HostTimes
from otcache_diffusers.hooks.trees import combine, examine
from otcache_diffusers.recording.probe import TorchProbe
from otcache_diffusers.recording.recorder import KeptRun
from otcache_diffusers.requests import prepared

N = 6
SCHEDULE = Schedule(N, (0, 2, 4))
REQUEST = SampleRequest(("a", "b"), (0, 1), N)
GRID = tiny.euler_grid(N)


class Net(tiny.Velocity):
    """A velocity field that can do something else in the middle of a call."""

    meanwhile: Callable[[], Any] | None = None

    def forward(self, x: torch.Tensor, t: Any) -> torch.Tensor:
        if self.meanwhile is not None:
            work, self.meanwhile = self.meanwhile, None
            work()
        return super().forward(x, t)


def euler(
    net: Any, calls: Sequence[int] = (1,) * N, times: Sequence[float] = GRID, begin: int = 0
) -> torch.Tensor:
    """Take a step for each number of calls."""
    x = tiny.noise(1, 8)
    with torch.no_grad():
        for i, count in enumerate(calls):
            v = sum(net(x + k, times[begin + i]) for k in range(count)) / count
            x = x - v / N
    return x


def sampled(net: Any, calls: Sequence[int] = (1,) * N) -> Callable[..., torch.Tensor]:
    """Return a sampler as a loop takes it, one row per sample."""

    def sample(prompts: Any = None, seeds: Any = (0,), num_steps: int = N) -> torch.Tensor:
        x = torch.stack([tiny.noise(8, seed=seed) for seed in seeds])
        with torch.no_grad():
            for i, count in enumerate(calls[:num_steps]):
                v = sum(net(x + k, GRID[i]) for k in range(count)) / count
                x = x + (GRID[i + 1] - GRID[i]) * v
        return x

    return sample


def followed(target: Any, run: Callable[[], Any], **settings: Any) -> Any:
    """Run accelerated; nothing is said, and steps are skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", OtcacheNotice)
        with TorchExecutor().attach(target, SCHEDULE, **settings) as handle:
            result = run()
    assert sum(handle.report.skipped.values()) > 0
    return result


def refused(target: Any, run: Callable[[], Any], words: str, **settings: Any) -> None:
    with (
        TorchExecutor().attach(target, SCHEDULE, **settings),
        pytest.raises(ExecutionError, match=words),
    ):
        run()


def elsewhere(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as other:
        return other.submit(work).result()


# -- calls and times ---------------------------------------------------------------------------------


@pytest.mark.remedy(
    "set calls_per_step=2 if guidance calls the module twice a step, or calls_per_step=1 if"
)
def test_calls_of_a_bare_module_are_said() -> None:
    net, twice = Net(), [2] * N
    refused(net, lambda: euler(net, twice), "set calls_per_step=2")
    followed(net, lambda: euler(net, twice), calls_per_step=2)
    alike = [1.0, 0.8, 0.8, 0.6, 0.4, 0.2]
    refused(net, lambda: euler(net, times=alike), "calls_per_step=1 if these are steps")
    followed(net, lambda: euler(net, times=alike), calls_per_step=1)


@pytest.mark.remedy(
    "a forecast may have gone to the wrong one. Keep guidance on for the whole run. A run"
)
def test_guidance_of_a_bare_module_stays_on() -> None:
    net, ends = Net(), [2, 2, 2, 2, 1, 1, 2, 2]
    refused(net, lambda: euler(net, ends, [*GRID, *GRID]), "Keep guidance on", calls_per_step=2)
    followed(net, lambda: euler(net, [2] * N), calls_per_step=2)


@pytest.mark.remedy(
    "Keep guidance on for the whole run, or let denoiser= be a function that guides inside"
)
def test_guidance_of_a_loop_stays_on_or_goes_inside() -> None:
    net, ends = Net(), [2, 2, 1, 1, 1, 1]
    loop = Loop(sampled(net, ends), net, GRID, calls_per_step=2)
    refused(loop, loop, "let denoiser= be a function that guides inside")
    loop = Loop(sampled(net, [2] * N), net, GRID, calls_per_step=2)
    followed(loop, loop)
    loop = Loop(lambda: euler(loop.denoiser), lambda x, t: net(x, t) + net(x + 1, t), GRID)
    followed(loop, loop)


@pytest.mark.remedy(
    "set calls_per_step={} in otcache.loop(...) if each step makes as many, or num_steps= ("
)
def test_calls_and_steps_of_a_loop_are_said() -> None:
    net = Net()
    loop = Loop(sampled(net, [2] * N), net, GRID)
    refused(loop, loop, r"set calls_per_step=2 in otcache\.loop")
    loop = Loop(sampled(net, [2] * N), net, GRID, calls_per_step=2)
    followed(loop, loop)

    def heun(num_steps: int) -> torch.Tensor:
        return euler(net, [1] * (2 * num_steps - 1), np.linspace(1, 0.1, 2 * num_steps - 1))

    loop = Loop(heun, net)
    with (
        TorchExecutor().attach(loop, Schedule(4, (0,))),
        pytest.raises(ExecutionError, match=r"lambda n: 2 \* n - 1 for Heun's method"),
    ):
        loop(4)
    for given in (7, lambda n: 2 * n - 1):
        loop = Loop(heun, net, num_steps=given)
        with TorchExecutor().attach(loop, Schedule(7, (0, 3))) as run:
            loop(4)
        assert (run.report.runs, run.report.warnings) == (1, [])


@pytest.mark.remedy("set num_steps= or calls_per_step= in otcache.loop(...) to what it makes")
def test_a_loop_that_returns_early_is_given_its_number_of_steps() -> None:
    net = Net()
    loop = Loop(lambda: euler(net), net, num_steps=N + 2)
    with (
        pytest.warns(OtcacheNotice, match="set num_steps= or calls_per_step="),
        TorchExecutor().attach(loop, Schedule(N + 2, (0, 2, 4))),
    ):
        loop()
    loop = Loop(lambda: euler(net), net, num_steps=N)
    followed(loop, loop)


@pytest.mark.remedy(
    "give sample_fn an argument num_steps, or otcache.loop(...) num_steps= or grid="
)
def test_the_number_of_steps_is_known() -> None:
    net = Net()
    loop = Loop(lambda: euler(net), net)
    with (
        TorchExecutor().attach(loop, lambda grid: Schedule.full(len(grid) - 1)),
        pytest.warns(OtcacheNotice, match="number of steps must be known"),
    ):
        loop()
    for known, call in (
        (Loop(lambda num_steps: euler(net), net), {"num_steps": N}),
        (Loop(lambda: euler(net), net, num_steps=N), {}),
        (Loop(lambda: euler(net), net, GRID), {}),
    ):
        with TorchExecutor().attach(known, lambda grid: SCHEDULE) as run:
            known(**call)
        assert run.report.skipped == {"call": 3}


@pytest.mark.remedy("pass the very module that sample_fn calls to otcache.loop(...)")
def test_the_very_module_is_passed() -> None:
    net, other = Net(), Net()
    loop = Loop(lambda: euler(net), other, GRID)
    refused(loop, loop, "pass the very module", strict=True)
    loop = Loop(lambda: euler(net), net, GRID)
    followed(loop, loop)


@pytest.mark.remedy("wrap its sampler in otcache.loop(...)")
@pytest.mark.remedy(
    "a bare module has no sampler to call: wrap it in otcache.loop(...)", value=True
)
def test_a_bare_module_is_wrapped_in_a_loop() -> None:
    net = Net()
    with pytest.raises(ExecutionError, match=r"wrap its sampler in otcache\.loop"):
        TorchExecutor().attach(net, lambda grid: SCHEDULE).__enter__()
    loop = Loop(sampled(net), net, GRID)
    with TorchExecutor().attach(loop, lambda grid: SCHEDULE) as run:
        loop()
    assert run.report.skipped == {"call": 3}
    assert "wrap it in otcache.loop(...)" in TorchProbe().supports(net)
    assert TorchProbe().supports(loop) == ""


@pytest.mark.remedy(
    "use a fixed-step method of the same library (euler, heun, midpoint, rk4)", value=True
)
@pytest.mark.remedy(
    "Check num_steps and calls_per_step. {} otcache.loop(...) around the sampler says"
)
def test_runs_of_a_bare_module_that_begin_elsewhere() -> None:
    net = Net()

    def twice(calls: int) -> None:
        for _ in range(2):
            euler(net, [1] * calls, tiny.euler_grid(calls))

    with pytest.warns(OtcacheNotice, match="Check num_steps and calls_per_step"):
        followed_or_said(net, lambda: twice(N + 1), calls_per_step=1)
    followed(net, lambda: twice(N), calls_per_step=1)
    loop = Loop(lambda num_steps: euler(net, [1] * num_steps, tiny.euler_grid(num_steps)), net)
    followed(loop, lambda: (loop(N), loop(N)))
    rejecting = HostTimes()
    rejecting.begin(1.0)
    rejecting.advance(0.5)
    assert "use a fixed-step method" in rejecting.advance(0.75)
    fixed = HostTimes()
    assert [fixed.begin(1.0), *(fixed.advance(t) for t in (0.75, 0.5, 0.25))] == [""] * 4


def followed_or_said(target: Any, run: Callable[[], Any], **settings: Any) -> None:
    with TorchExecutor().attach(target, SCHEDULE, **settings):
        run()


@pytest.mark.remedy(
    "plan one for runs that begin there, or give otcache.loop(...) its grid= as a function"
)
def test_runs_of_a_loop_that_begin_elsewhere() -> None:
    net = Net()

    def partly(num_steps: int) -> torch.Tensor:  # image to image: the last steps of a longer grid
        longer = tiny.euler_grid(N) if num_steps == N else tiny.euler_grid(2 * N)[N:]
        return euler(net, [1] * N, longer)

    loop = Loop(partly, net, num_steps=N)
    with pytest.warns(OtcacheNotice, match="plan one for runs that begin there"):
        followed_or_said(loop, lambda: (loop(N), loop(2 * N)))
    followed(loop, lambda: loop(2 * N))  # by itself, planned for where it begins
    loop = Loop(
        lambda num_steps: euler(net, [1] * num_steps, tiny.euler_grid(num_steps)),
        net,
        grid=tiny.euler_grid,
    )
    followed(loop, lambda: loop(N))


@pytest.mark.remedy("and noise levels are not known ({}: {}): let it return s_0 .. s_N")
def test_a_grid_that_is_a_function() -> None:
    net = Net()
    loop = Loop(lambda num_steps: euler(net), net, lambda n: [1 / (n - N)])
    with pytest.warns(OtcacheNotice, match=r"let it return s_0 \.\. s_N"):
        followed_or_said(loop, lambda: loop(N))
    loop = Loop(lambda num_steps: euler(net), net, tiny.euler_grid)
    followed(loop, lambda: loop(N))


# -- one run at a time -------------------------------------------------------------------------------


@pytest.mark.remedy("must serve one run at a time, got a concurrent call: load the model twice")
@pytest.mark.remedy("got calls of two threads within a run: load the model twice")
def test_a_second_thread_has_a_model_of_its_own() -> None:
    net, twin = Net(), Net()

    def during() -> None:
        with pytest.raises(ExecutionError, match="got a concurrent call: load the model twice"):
            elsewhere(lambda: net(tiny.noise(1, 8), GRID[0]))

    def between() -> None:
        x = tiny.noise(1, 8)
        net(x, GRID[0])
        with pytest.raises(ExecutionError, match="two threads within a run: load the model twice"):
            elsewhere(lambda: net(x, GRID[1]))

    net.meanwhile = during
    with TorchExecutor().attach(net, SCHEDULE):
        euler(net)
        between()
    net.meanwhile = lambda: elsewhere(lambda: euler(twin))
    with TorchExecutor().attach(twin, SCHEDULE) as run:
        followed(net, lambda: euler(net))
    assert (run.report.runs, run.report.skipped) == (1, {"call": 3})


@pytest.mark.remedy("one after the other, got a concurrent call: make them in turn")
def test_calls_of_one_run_come_in_turn() -> None:
    net, x = Net(), tiny.noise(1, 8)

    def sample() -> None:
        run = contextvars.copy_context().run  # in a thread that knows whose run it is
        net.meanwhile = lambda: elsewhere(lambda: run(net, x, GRID[0]))
        euler(net)

    loop = Loop(sample, net, GRID)
    refused(loop, loop, "got a concurrent call: make them in turn")
    loop = Loop(lambda: euler(net, [2] * N), net, GRID, calls_per_step=2)
    followed(loop, loop)


@pytest.mark.remedy("got another run during a call: load the pipeline twice")
def test_a_run_inside_a_call_is_another_pipeline_s() -> None:
    case, other = tiny.flux(), tiny.flux()
    inner: list[tiny.Case] = []

    def again(module: Any, args: Any) -> None:
        if inner:
            inner.pop()(N)

    part = next(m for m in case.denoiser.modules() if isinstance(m, torch.nn.Linear))
    part.register_forward_pre_hook(again)
    inner.append(case)
    refused(case.pipe, lambda: case(N), "another run during a call: load the pipeline twice")
    inner.append(other)
    with TorchExecutor().attach(other.pipe, SCHEDULE) as run:
        followed(case.pipe, lambda: case(N))
    assert run.report.skipped == {"cond": 3}


@pytest.mark.remedy("leave that context first or call handle.remove(), or load the model twice")
def test_a_module_of_a_loop_is_taken() -> None:
    net = Net()
    loop = Loop(lambda: euler(net), net, GRID)
    with TorchExecutor().attach(loop, SCHEDULE):
        with pytest.raises(ExecutionError, match="or load the model twice"):
            TorchExecutor().attach(net, SCHEDULE).__enter__()
        twin = Net()
        followed(twin, lambda: euler(twin))
    followed(net, lambda: euler(net))


@pytest.mark.remedy("give each thread a loop with a denoiser of its own")
def test_each_thread_has_a_loop_of_its_own() -> None:
    net, twin = Net(), Net()
    loop = Loop(lambda: euler(net), net, GRID)
    other = Loop(lambda: euler(twin), twin, GRID)
    net.meanwhile = lambda: elsewhere(loop)
    refused(loop, loop, "give each thread a loop with a denoiser of its own")
    net.meanwhile = lambda: elsewhere(other)
    with TorchExecutor().attach(other, SCHEDULE) as run:
        followed(loop, loop)
    assert (run.report.runs, run.report.skipped) == (1, {"call": 3})


@pytest.mark.remedy("while it is accelerated or recorded, got {}: leave the context first")
def test_a_denoiser_changes_its_kind_outside_of_the_context() -> None:
    net = Net()
    loop = Loop(lambda: euler(loop.denoiser), net, GRID)
    with TorchExecutor().attach(loop, SCHEDULE):
        loop.denoiser = lambda x, t: net(x, t)
        with pytest.raises(ExecutionError, match="leave the context first"):
            loop()
    loop.denoiser = lambda x, t: net(x, t)
    followed(loop, loop)


# -- outputs -----------------------------------------------------------------------------------------


@pytest.mark.remedy("return torch.from_numpy(array).")
@pytest.mark.remedy("return the tensors, or wrap the denoiser in an nn.Module that does.")
def test_outputs_are_tensors() -> None:
    net = Net()
    loop = Loop(
        lambda: euler(lambda x, t: torch.as_tensor(loop.denoiser(x, t))),
        lambda x, t: net(x, t).numpy(),
        GRID,
    )
    refused(loop, loop, r"return torch\.from_numpy\(array\)", strict=True)
    made = Loop(
        lambda: euler(lambda x, t: made.denoiser(x, t)),
        lambda x, t: torch.from_numpy(net(x, t).numpy()),
        GRID,
    )
    followed(made, made)
    with pytest.raises(ExecutionError, match=r"return the tensors, or wrap the denoiser"):
        examine(lambda: 1)
    examine(net(tiny.noise(1, 8), 1.0))


@pytest.mark.remedy(
    "changed their structure during the run: use reuse, or otcache.Recipe(batch_size=1)"
)
@pytest.mark.remedy(
    "outputs of one branch must have one shape, got {}: use reuse, or otcache.Recipe("
)
@pytest.mark.remedy("a forecast needs outputs of floating-point numbers, got {} without: use reuse")
def test_reuse_takes_any_output() -> None:
    v = tiny.noise(2, 3)
    for pair, words in (
        ([v, (v,)], "changed their structure"),
        ([v, v[:, :2]], "one shape"),
        ([v.long(), v.long()], "floating-point"),
    ):
        with pytest.raises(ExecutionError, match=rf"{words}.*use\s+reuse"):
            combine(pair, [2.0, -1.0])
        assert combine(pair[:1], [1.0]) is pair[0]


@pytest.mark.remedy(
    "get streams of one shape in the whole run, got {} after {}: cache whole outputs"
)
def test_streams_that_change_their_shape() -> None:
    with pytest.raises(ExecutionError, match="cache whole outputs"):
        _plus(tiny.noise(2, 3), tiny.noise(2, 4))


@pytest.mark.remedy("forecasts from it are infinite. Keep outputs in bf16", value=True)
def test_outputs_beyond_fp16_are_kept_in_bf16() -> None:
    loop = Loop(
        lambda: euler(lambda x, t: loop.denoiser(x, t)), lambda x, t: 1e5 * torch.sign(x), GRID
    )
    warned = []
    for dtype in ("fp16", "bf16"):
        with TorchExecutor().attach(loop, SCHEDULE, storage=CacheStorage(dtype)) as run:
            loop()
        warned.append(run.report.warnings)
    assert "Keep outputs in bf16." in warned[0][0]
    assert warned[1] == []


# -- schedules ---------------------------------------------------------------------------------------


@pytest.mark.remedy("{}: plan one for {} steps")
def test_a_schedule_is_planned_for_the_steps_of_the_run() -> None:
    net = Net()
    loop = Loop(lambda: euler(net), net, GRID)
    with (
        TorchExecutor().attach(loop, Schedule(9, (0, 4)), strict=True),
        pytest.raises(ExecutionError, match="plan one for 6 steps"),
    ):
        loop()
    followed(loop, loop, strict=True)


@pytest.mark.remedy(
    "which no call of a run was: it had {}. Name branches as run.report does", value=True
)
def test_branches_are_named_as_the_report_does() -> None:
    net = Net()
    loop = Loop(lambda: euler(net, [2] * N), net, GRID, calls_per_step=2)
    with TorchExecutor().attach(loop, Schedule(N, (0, 3), branches=(("uncond", (0,)),))) as run:
        loop()
    assert "Name branches as run.report does." in run.report.warnings[0]
    _, second = run.report.skipped
    with TorchExecutor().attach(loop, Schedule(N, (0, 3), branches=((second, (0,)),))) as run:
        loop()
    assert (run.report.warnings, run.report.skipped) == ([], {"call": 4, second: 5})


@pytest.mark.remedy(
    "use another forecaster, or another grid= if two steps of yours are alike", value=True
)
def test_a_grid_of_steps_that_are_alike() -> None:
    class Divided(Forecaster):
        """A plugin's, that divides by the distance of two steps."""

        def coefficients(self, span: Any, grid: Any) -> Any:
            slope = 1 / (grid[span.start] - grid[span.start - 1])
            return np.full((len(span.skipped), 2), slope)

    def refusal(forecaster: Forecaster, grid: list[float]) -> str:
        schedule = Schedule(N, (0, 1, 2), "divided")
        return "".join(playback_table(schedule, forecaster, grid).notes)

    alike = [1.0, 0.8, 0.8, 0.6, 0.4, 0.2, 0.0]
    assert "use another forecaster, or another grid=" in refusal(Divided(), alike)
    assert refusal(Reuse(), alike) == refusal(Divided(), GRID) == ""


@pytest.mark.remedy(
    "through the exported noise levels: accelerate the pipeline with the executor instead"
)
def test_a_grid_that_cannot_be_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    case = tiny.flux()
    monkeypatch.setattr("otcache_diffusers.export._candidates", lambda full, wanted: [])
    with pytest.raises(ExecutionError, match="with the executor instead"):
        export_sigmas(case.pipe, SCHEDULE, **case.call)
    followed(case.pipe, lambda: case(N))


# -- recording ---------------------------------------------------------------------------------------


@pytest.mark.remedy(
    "let denoiser= be a function of the state that returns what the step uses, called as"
)
@pytest.mark.remedy("got the state it began with: return the last one of a list of all states")
@pytest.mark.remedy("let sample_fn return x_N, one row per sample")
@pytest.mark.remedy("use a diffusers pipeline, or a loop that calls the denoiser with x")
def test_the_probe_sees_the_sampler_s_state() -> None:
    net = Net()
    run = sampled(net)

    def record(loop: Loop) -> None:
        list(TorchProbe().record(loop, REQUEST))

    with pytest.raises(ExecutionError, match=r"let sample_fn return x_N"):
        record(
            Loop(lambda prompts, seeds, num_steps: [run(prompts, seeds, num_steps)][1:], net, GRID)
        )

    def listed(prompts: Any, seeds: Any, num_steps: int) -> list[torch.Tensor]:
        start = torch.stack([tiny.noise(8, seed=seed) for seed in seeds])
        return [start, run(prompts, seeds, num_steps)]

    with pytest.raises(ExecutionError, match=r"return the last one of a list of all states"):
        record(Loop(listed, net, GRID))
    record(Loop(lambda *asked: listed(*asked)[-1], net, GRID))

    def shrinks(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
        x = tiny.noise(2, 8)
        for i in range(num_steps):
            x = x - small.denoiser(x[:, : 8 - i], GRID[i]).sum() / N
        return x

    small = Loop(shrinks, lambda x, t: x / 2, GRID)
    with pytest.raises(ExecutionError, match=r"or a loop that calls the denoiser with x"):
        record(small)
    record(Loop(run, net, GRID))

    def twice(x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.cat([net(x, t), x.new_ones(1, 8)])

    wide = Loop(
        lambda prompts, seeds, num_steps: sampled(lambda x, t: wide.denoiser(x, t)[: len(x)])(
            prompts, seeds, num_steps
        ),
        twice,
        GRID,
    )
    with pytest.raises(ExecutionError, match=r"let denoiser= be a function of the state"):
        list(TorchProbe().record(wide, SampleRequest(("a",), (0,), N)))
    wide.denoiser = lambda x, t: twice(x, t)[: len(x)]
    record(wide)


@pytest.mark.remedy(
    "as many denoiser outputs as the first ({}), got {}: keep guidance on for the whole run"
)
def test_guidance_of_a_recorded_run_stays_on() -> None:
    x = np.ones((2, 3), np.float32)
    kept = KeptRun(N, x.shape, 2, RecordingStorage())
    kept.add(0, x, [x, x])
    with pytest.raises(ExecutionError, match="keep guidance on for the whole run"):
        kept.add(1, x, [x])
    kept.add(1, x, [x, x])


@pytest.mark.remedy("return one row per sample, and give a pipeline one image per sample")
def test_a_pipeline_makes_one_image_a_sample() -> None:
    case = tiny.with_prompts(tiny.flux())
    plain = type(case.pipe)

    class More(plain):  # type: ignore[valid-type,misc]
        def __call__(self, prompt: Any = None, generator: Any = None, **call: Any) -> Any:
            return plain.__call__(
                self, prompt=[*prompt, "c"], generator=[*generator, torch.Generator()], **call
            )

    request = SampleRequest(("a", "b"), (0, 1), 2, {"height": 16, "width": 16})
    case.pipe.__class__ = More
    with pytest.raises(ExecutionError, match=r"give a pipeline one image per sample"):
        list(TorchProbe().record(case.pipe, request))
    case.pipe.__class__ = plain
    assert len(list(TorchProbe().record(case.pipe, request))) == 2


@pytest.mark.remedy("the full run itself broke; try float32 or bfloat16")
def test_a_run_beyond_float16_is_recorded_in_float32(tmp_path: Any) -> None:
    def loop(dtype: torch.dtype) -> Loop:
        def sample(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
            x = torch.stack([tiny.noise(8, seed=seed) for seed in seeds]).to(dtype)
            for i in range(num_steps):
                x = x + loop.denoiser(x, GRID[i])
            return x

        loop = Loop(sample, lambda x, t: 50 * x, GRID)
        return loop

    request = SampleRequest(("a",), (0,), N, keep=RecordingStorage(memory_bytes=0, folder=tmp_path))
    with pytest.raises(ExecutionError, match="try float32 or bfloat16"):
        list(TorchProbe().record(loop(torch.float16), request))
    for dtype in (torch.float32, torch.bfloat16):
        list(TorchProbe().record(loop(dtype), request))


# -- requests ----------------------------------------------------------------------------------------


class Pipe:
    """What a request is checked against."""

    def __call__(
        self,
        image: Any,
        prompt: Any = None,
        prompt_embeds: Any = None,
        latents: Any = None,
        sigmas: Any = None,
        num_inference_steps: int = 50,
        generator: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> None: ...


class Silent:
    """Takes no prompt."""

    def __call__(self, image: Any, num_inference_steps: int = 50) -> None: ...


def asked(words: str, prompts: Sequence[Any] = ("a", "b"), target: Any = None, **call: Any) -> None:
    """Check a request: it is refused with these words, or taken if there are none."""
    request = SampleRequest(tuple(prompts), (0,) * len(prompts), 4, call)
    if not words:
        prepared(target or Pipe(), request)
        return
    with pytest.raises(OtcacheError, match=words):
        prepared(target or Pipe(), request)


@pytest.mark.remedy("give the number of steps")
@pytest.mark.remedy("give seeds")
@pytest.mark.remedy("leave it out")
def test_what_a_request_makes_itself_is_left_out() -> None:
    asked("is otcache's own: give the number of steps", image=1, num_inference_steps=4)
    asked("is otcache's own: give seeds", image=1, generator=None)
    asked("is otcache's own: leave it out", image=1, return_dict=False)
    asked("", image=1)  # with the number of steps and seeds that a request has


@pytest.mark.remedy(
    '{} takes no prompt: give samples as mappings of its call arguments, prompts=[{"{}": ...}'
)
def test_samples_of_a_pipeline_without_prompts_are_mappings() -> None:
    asked("takes no prompt: give samples as mappings", target=Silent())
    asked("", [{"image": 1}, {"image": 2}], Silent())


@pytest.mark.remedy("{} is given for all samples and by each: give it once")
def test_an_argument_is_given_once() -> None:
    each = [{"prompt": "a", "image": 1}, {"prompt": "b", "image": 2}]
    asked("image is given for all samples and by each: give it once", each, image=1)
    asked("", each)
    asked("", image=1)


@pytest.mark.remedy(
    "latents would be the noise of every sample: leave them out, noise comes from seeds; or {}"
)
@pytest.mark.remedy('give each sample its own: prompts=[{"prompt": ..., "{}": ...}, ...]')
@pytest.mark.remedy("{} needs {}: {}, or give one for all, {}=...")
@pytest.mark.remedy("leave one of the two out; embeddings of each sample go as prompts=[")
def test_what_each_sample_has_of_its_own() -> None:
    x = torch.zeros(1, 2, 3)
    asked("leave them out, noise comes from seeds; or give each sample its own", image=1, latents=x)
    asked("", image=1)
    asked(
        "", [{"prompt": "a", "image": 1, "latents": x}, {"prompt": "b", "image": 1, "latents": -x}]
    )
    asked("needs image: give each sample its own: .*, or give one for all, image=")
    asked("", [{"prompt": "a", "image": 1}, {"prompt": "b", "image": 2}])
    asked(
        "prompt_embeds are given beside prompts: leave one of the two out", image=1, prompt_embeds=x
    )
    asked("", [{"prompt_embeds": x, "image": 1}, {"prompt_embeds": -x, "image": 1}])


@pytest.mark.remedy("their number, {}, got {}: give num_inference_steps={}, or leave {} out")
def test_sigmas_beside_their_number() -> None:
    asked("give num_inference_steps=2, or leave sigmas out", image=1, sigmas=[1.0, 0.5])
    asked("", image=1)
    two = SampleRequest(("a",), (0,), 2, {"image": 1, "sigmas": [1.0, 0.5]})
    assert prepared(Pipe(), two).num_steps == 2


@pytest.mark.remedy("let it take these arguments, and give the others to calibrate by name")
def test_a_sampler_takes_what_it_is_called_with() -> None:
    def bad(prompts: Any, seeds: Any, num_steps: int, scale: float) -> None: ...

    def good(prompts: Any, seeds: Any, num_steps: int, scale: float = 1.0) -> None: ...

    asked("let it take these arguments, and give the others", target=Loop(bad, Net()))
    asked("", target=Loop(bad, Net()), scale=2.0)
    asked("", target=Loop(good, Net()))
