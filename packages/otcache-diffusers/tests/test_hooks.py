"""The driver: clocks, branches, grids and the linear combination of outputs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMScheduler
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch.utils._python_dispatch import TorchDispatchMode

from otcache_core import ExecutionError, OtcacheError, Schedule
from otcache_core.contracts import SampleRequest
from otcache_core.errors import OtcacheNotice
from otcache_core.identification import identify
from otcache_core.loop import Loop
from otcache_core.recurrence import Recurrence
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks import DenoiserCall, RunInfo, Severity, StepHook, combine, drive
from otcache_diffusers.recording.probe import TorchProbe

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")


class Log(StepHook):
    """Writes down its calls, and skips these steps by reuse."""

    def __init__(self, skip: tuple[int, ...] = ()) -> None:
        self.skip, self.events = skip, []  # type: ignore[var-annotated]
        self.last: dict[str, Any] = {}
        self.warnings: list[str] = []

    def begin(self, run: RunInfo) -> None:
        self.run = run
        self.events.append("begin")

    def forecast(self, call: DenoiserCall) -> Any | None:
        return call.to_output(self.last[call.branch]) if call.step in self.skip else None

    def compute(self, call: DenoiserCall) -> Any:
        output = call.compute()
        self.last[call.branch] = call.to_run_quantity(output)
        self.events.append((call.step, call.branch))
        return output

    def stepped(self, step: int, sample: Any, model_output: Any, next_sample: Any) -> None:
        self.events.append(("stepped", step))

    def end(self, completed: bool) -> None:
        self.events.append("end" if completed else "broken")

    def report(self, message: str, severity: Severity) -> None:
        if severity is not Severity.WARNING:
            super().report(message, severity)
        else:
            self.warnings.append(message)


# -- combine ------------------------------------------------------------------------------------


def test_one_term_of_weight_one_is_the_very_output() -> None:
    output = (torch.ones(2),)
    assert combine([output], [1.0]) is output


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x,),
        lambda x: [x, x + 1],
        lambda x: {"a": x, "b": None},
        lambda x: Transformer2DModelOutput(sample=x),
    ],
    ids=["tensor", "tuple", "list", "dict", "output"],
)
def test_outputs_of_any_shape_are_combined_leaf_by_leaf(wrap: Any) -> None:
    a, b = tiny.noise(3, seed=1), tiny.noise(3, seed=2)
    made, wanted = combine([wrap(a), wrap(b)], [1.5, -0.5]), wrap(1.5 * a - 0.5 * b)
    assert type(made) is type(wanted)
    pairs = zip(
        torch.utils._pytree.tree_leaves(made), torch.utils._pytree.tree_leaves(wanted), strict=True
    )
    for x, y in pairs:
        assert x is None or torch.allclose(x, y)


def test_half_precision_is_accumulated_in_single_and_cast_once() -> None:
    parts = [tiny.noise(1000, seed=n).bfloat16() for n in range(3)]
    weights = [3.0, -3.0, 1.0]
    exact = sum(w * p.double() for w, p in zip(weights, parts, strict=True))
    made = combine(parts, weights)
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, exact.float().bfloat16())


def test_outputs_that_changed_shape_are_refused() -> None:
    with pytest.raises(ExecutionError, match="must have one shape"):
        combine([torch.ones(2), torch.ones(3)], [1.0, 1.0])


# -- grids --------------------------------------------------------------------------------------


def test_ddim_is_an_euler_step_on_its_grid() -> None:
    r"""x_i sqrt(1 + s_i^2) = x / sqrt(a) moves by (s_{i+1} - s_i) epsilon."""
    ddim = DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
    case = tiny.sdxl(ddim)
    log = Log()
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    log.stepped = lambda step, *triple: seen.append(triple)  # type: ignore[method-assign]
    with drive(case.pipe, log):
        case(5)
    s = log.run.grid
    assert s[-1] == 0
    assert (np.diff(s) < 0).all()
    for i, (x, v, after) in enumerate(seen):
        moved = after * (1 + s[i + 1] ** 2) ** 0.5 - x * (1 + s[i] ** 2) ** 0.5
        torch.testing.assert_close(moved, (s[i + 1] - s[i]) * v, atol=2e-4, rtol=2e-4)


# -- clocks and branches ------------------------------------------------------------------------


def test_events_come_in_order() -> None:
    case = tiny.flux(cfg=True)
    log = Log()
    with drive(case.pipe, log):
        case(2)
    step = [[(t, "cond"), (t, "uncond"), ("stepped", t)] for t in range(2)]
    assert log.events == ["begin", *step[0], *step[1], "end"]
    assert log.warnings == []


def test_guidance_that_ends_mid_run_starts_a_branch_of_its_own() -> None:
    net = tiny.Velocity()

    def sample(num_steps: int) -> torch.Tensor:
        x = tiny.noise(1, 8)
        for i in range(num_steps):
            rows = 2 if i < 3 else 1
            x = x - net(x.repeat(rows, 1), i)[:1] / num_steps
        return x

    loop = Loop(sample, net)
    with TorchExecutor().attach(loop, Schedule(6, (0, 2))) as run, torch.no_grad():
        loop(6)
    assert run.report.computed == {"call": 2, "call 1x8": 3}
    assert run.report.skipped == {"call": 1}
    assert "branch 'call 1x8' appeared or changed its shape during a run: computed." in (
        run.report.warnings
    )


def _unnamed(calls: list[int], num_steps: int) -> tuple[Any, torch.nn.Module]:
    """Return a sampler whose step t calls the denoiser calls[t] times, without naming the branches."""
    case = tiny.sdxl()
    unet, scheduler = case.pipe.unet, case.pipe.scheduler

    def run() -> None:
        scheduler.set_timesteps(num_steps)
        x = tiny.noise(1, 4, 8, 8)
        more = {"text_embeds": tiny.noise(1, 32), "time_ids": torch.zeros(1, 6)}
        for t, n in zip(scheduler.timesteps, calls, strict=True):
            for _ in range(n):
                text = tiny.noise(1, 12, 64)
                v = unet(scheduler.scale_model_input(x, t), t, text, added_cond_kwargs=more)[0]
            x = scheduler.step(v, t, x, return_dict=False)[0]

    return run, case.pipe


def test_unnamed_branches_that_vanish_are_computed_from_then_on() -> None:
    run, pipe = _unnamed([2, 2, 1, 1, 1], 5)
    log = Log(skip=(4,))
    with drive(pipe, log), torch.no_grad():
        run()
    assert (4, "call") in log.events
    assert log.warnings == [
        "the number of denoiser calls per step changed and the pipeline does not name its branches: "
        "the rest of the run is computed."
    ]


@pytest.mark.remedy(
    "does not name its branches, so a forecast may have gone to the wrong one. Keep guidance on"
)
def test_a_forecast_that_may_be_another_branch_s_is_an_error() -> None:
    run, pipe = _unnamed([2, 2, 1], 3)
    with (
        pytest.raises(
            ExecutionError, match=r"step 2: .* called 2 times, as in the first step, got 1"
        ),
        drive(pipe, Log(skip=(2,))),
        torch.no_grad(),
    ):
        run()
    run, pipe = _unnamed([2, 2, 2], 3)
    log = Log(skip=(2,))
    with drive(pipe, log), torch.no_grad():
        run()
    assert log.warnings == []


def test_the_times_of_all_runs_are_read_once() -> None:
    """A handle of a server lives as long as the server."""
    case, reads = tiny.flux(), 0

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal reads
            reads += "_local_scalar_dense" in func.__name__
            return func(*args, **(kwargs or {}))

    driven = drive(case.pipe, Log())
    driven.__enter__()
    for _ in range(5):
        case(2)
    with Reads():
        driven.__exit__(None, None, None)
    assert reads == 1


@pytest.mark.parametrize(("shift", "moved"), [(0.0, False), (-0.5, True)])
def test_other_timesteps_are_noticed_on_exit(shift: float, moved: bool) -> None:
    case = tiny.flux()
    scheduler, log = case.pipe.scheduler, Log()
    with drive(case.pipe, log), torch.no_grad():
        scheduler.set_timesteps(6)
        _call_flux(case, 1.0)
        x = torch.zeros(1, 2)
        scheduler.step(x, scheduler.timesteps[0], x)
        _call_flux(case, float(scheduler.timesteps[1]) / 1000 + shift)
    assert any("other timesteps than the scheduler's" in text for text in log.warnings) == moved


def _call_flux(case: tiny.Case, time: float) -> None:
    case.denoiser(
        hidden_states=tiny.noise(1, 64, 4),
        timestep=torch.full((1,), time),
        guidance=None,
        pooled_projections=tiny.noise(1, 32),
        encoder_hidden_states=tiny.noise(1, 12, 32),
        txt_ids=torch.zeros(12, 3),
        img_ids=torch.zeros(64, 3),
    )


# -- loops and bare modules ---------------------------------------------------------------------


def _loop(dtype: torch.dtype = torch.float64, grid: Any = tiny.euler_grid) -> Loop:
    net = tiny.counted(tiny.Velocity().to(dtype))
    return Loop(tiny.euler_sampler(net), net, grid=grid)


def test_reuse_is_sampling_on_the_sub_grid_in_float64() -> None:
    loop, schedule = _loop(), Schedule(10, (0, 1, 4, 7))
    s = schedule.to_sigmas(tiny.euler_grid(10))
    x = tiny.noise(8, seed=3).double()[None]
    with torch.no_grad():
        for now, after in pairwise(s):
            x = x + (after - now) * loop.denoiser(x, now)
    with TorchExecutor().attach(loop, schedule):
        reused = loop(["a"], [3], 10)
    torch.testing.assert_close(reused, x, atol=1e-14, rtol=1e-14)


def test_the_grid_of_a_loop_is_identified() -> None:
    request = SampleRequest(("a", "b", "c"), (0, 1, 2), 10, {}, 2)
    runs = list(TorchProbe().record(_loop(grid=None), request))
    for run in runs:
        np.testing.assert_allclose(run.grid, tiny.euler_grid(10), atol=1e-5)
        assert run.grid is runs[0].grid


def test_a_denoiser_that_is_given_a_scaled_state_is_calibrated() -> None:
    net = tiny.Velocity()

    def sample(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
        x = tiny.noise(len(seeds), 8)
        for i in range(num_steps):
            x = x - net(x / (1 + i), i) / num_steps
        return x.detach()

    request = SampleRequest(("a",) * 4, (0, 1, 2, 3), 6)
    found = identify(list(TorchProbe().record(Loop(sample, net), request)))
    assert isinstance(found, Recurrence)
    assert (found.order, found.grid) == (0, None)
    np.testing.assert_allclose(found.states[1:5, 0], [2 / 3, 3 / 4, 4 / 5, 5 / 6], atol=1e-4)


def test_in_place_updates_of_the_state_are_recorded_rightly() -> None:
    net = tiny.Velocity()

    def sample(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
        x = torch.stack([tiny.noise(8, seed=seed) for seed in seeds])
        with torch.no_grad():
            for i in range(num_steps):
                x.sub_(net(x, i).div_(num_steps))
        return x

    (run,) = TorchProbe().record(Loop(sample, net), SampleRequest(("a",), (0,), 6))
    assert np.linalg.norm(run.states[0] - run.states[-1]) > 0.1
    np.testing.assert_allclose(run.grid, np.linspace(1, 0, 7), atol=1e-5)


def test_of_a_sampler_that_writes_into_outputs_copies_are_kept_once_it_did() -> None:
    net = tiny.Velocity()

    def sampler(inplace: bool) -> Any:
        def sample(num_steps: int) -> torch.Tensor:
            x = tiny.noise(1, 8)
            with torch.no_grad():
                for i in range(num_steps):
                    v = net(x, i)
                    x = x - (v.div_(num_steps) if inplace else v / num_steps)
            return x

        return Loop(sample, net)

    loop, careful = sampler(inplace=True), sampler(inplace=False)
    with TorchExecutor().attach(careful, Schedule(4, (0, 1, 2))):
        first = careful(4)
    with TorchExecutor().attach(careful, Schedule(4, (0, 2))):
        later = careful(4)
    with TorchExecutor().attach(loop, Schedule(4, (0, 2))) as run:
        assert torch.equal(loop(4), first)
        assert torch.equal(loop(4), later)
    (warning,) = run.report.warnings
    assert warning.startswith("the sampler writes into the denoiser's outputs, or")
    assert run.report.skipped == {"call": 3}


def test_several_calls_a_step_imply_the_output_from_the_grid() -> None:
    net = tiny.Velocity()
    s = tiny.euler_grid(5)

    def sample(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
        x = torch.stack([tiny.noise(8, seed=seed) for seed in seeds])
        with torch.no_grad():
            for i in range(num_steps):
                v = 3 * net(x, s[i]) - 2 * net(x, 0.0)
                x = x + (s[i + 1] - s[i]) * v
        return x

    loop = Loop(sample, net, grid=s, calls_per_step=2)
    (run,) = TorchProbe().record(loop, SampleRequest(("a",), (0,), 5))
    assert run.calls == {"call": 5, "call#2": 5}
    with torch.no_grad():
        x = torch.tensor(run.states[2])[None]
        v = 3 * net(x, s[2]) - 2 * net(x, 0.0)
    np.testing.assert_allclose(run.outputs[2], v[0].numpy(), atol=1e-4)


def test_a_bare_module_wraps_around_and_restarts() -> None:
    net = tiny.counted(tiny.Velocity())
    sample = tiny.euler_sampler(net)
    with TorchExecutor().attach(net, Schedule(5, (0, 2))) as run:
        first = sample(["a"], [0], 5)
        assert torch.equal(sample(["a"], [0], 5), first)
        sample(["a", "b"], [0, 1], 5)
        with torch.no_grad():  # a loop that is given up after two steps
            net(tiny.noise(1, 8), 1.0)
            net(tiny.noise(1, 8), 0.5)
        with pytest.warns(OtcacheNotice, match="another run began after 2 of the 5 calls"):
            assert torch.equal(sample(["a"], [0], 5), first)
    assert run.report.runs == 4
    assert run.report.warnings[1:] == ["a run broke off before its last step."]


def test_a_bare_module_s_exception_ends_its_run() -> None:
    net = tiny.Velocity()
    sample = tiny.euler_sampler(net)
    with TorchExecutor().attach(net, Schedule(5, (0, 2))), torch.no_grad():
        first = sample(["a"], [0], 5)
        net(tiny.noise(1, 8), 1.0)
        net(tiny.noise(1, 8), 0.7)
        with pytest.warns(OtcacheNotice, match="another run began"), pytest.raises(RuntimeError):
            net(tiny.noise(1, 9), 0.5)
        assert torch.equal(sample(["a"], [0], 5), first)


# -- what is refused ----------------------------------------------------------------------------


def test_driving_twice_is_refused() -> None:
    case = tiny.flux()
    with drive(case.pipe, Log()):
        with pytest.raises(ExecutionError, match="already accel"), drive(case.pipe, Log()):
            pass
        twice = drive(case.denoiser, Log(), num_steps=3)
        with pytest.raises(ExecutionError, match="already accelerated or recorded"), twice:
            pass
    assert "step" not in vars(case.pipe.scheduler)
    assert "forward" not in vars(case.denoiser)


@pytest.mark.parametrize(
    ("target", "message"),
    [(object(), "needs a diffusers pipeline, otcache.loop(...) or a torch module, got object")],
)
def test_other_targets_are_refused(target: Any, message: str) -> None:
    assert TorchExecutor().supports(target) == message
    assert TorchProbe().supports(target) == message
    with pytest.raises(ExecutionError), TorchExecutor().attach(target, Schedule(2, (0,))):
        pass


def test_a_bare_module_cannot_be_recorded() -> None:
    assert "wrap it in otcache.loop" in TorchProbe().supports(tiny.Velocity())


@pytest.mark.remedy(
    "wrap a function that samples, and the module that it calls, in otcache.loop(...)"
)
def test_a_pipeline_that_never_calls_the_denoiser_is_named() -> None:
    case = tiny.with_prompts(tiny.flux())
    stranger = tiny.flux().pipe.transformer
    case.pipe.__class__ = type(
        "Odd", (type(case.pipe),), {"__call__": lambda self, prompt=None, **call: [0]}
    )
    request = SampleRequest(("a",), (0,), 4)
    with pytest.raises(ExecutionError, match="the sampler of Odd never called the denoiser"):
        list(TorchProbe().record(case.pipe, request))
    net = tiny.Velocity()
    assert len(list(TorchProbe().record(Loop(tiny.euler_sampler(net), net), request))) == 1
    del stranger


@pytest.mark.parametrize("name", ["prompt", "num_inference_steps", "generator", "output_type"])
def test_what_a_request_makes_itself_is_no_call_argument(name: str) -> None:
    case = tiny.with_prompts(tiny.flux())
    request = SampleRequest(("a",), (0,), 4, {name: "x"})
    with pytest.raises(OtcacheError, match=f"the call argument {name} is otcache's own"):
        list(TorchProbe().record(case.pipe, request))


def test_a_loop_that_never_calls_the_denoiser_is_named() -> None:
    loop = Loop(lambda num_steps: torch.zeros(1), tiny.Velocity())
    for strict, said in (
        (False, pytest.warns(OtcacheNotice, match="never called the denoiser")),
        (True, pytest.raises(ExecutionError, match="never called the denoiser")),
    ):
        with said, TorchExecutor().attach(loop, Schedule(4, (0,)), strict=strict):
            assert torch.equal(loop(4), torch.zeros(1))


def test_without_a_grid_forecasts_count_steps() -> None:
    made = []
    for grid in (None, np.linspace(3, 0, 7)):
        loop = _loop(grid=grid)
        with TorchExecutor().attach(loop, Schedule(6, (0, 1), "linear")):
            made.append(loop(["a"], [0], 6))
    torch.testing.assert_close(*made, rtol=1e-12, atol=1e-12)  # 1 - i/N and 3 - i/2 are rounded


@pytest.mark.parametrize(
    ("prompts", "seeds", "message"),
    [((), (), "prompts must be at least one"), (("a",), (0, 1), "seeds must be one per prompt")],
)
def test_requests_are_checked(prompts: Any, seeds: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(TorchProbe().record(_loop(), SampleRequest(prompts, seeds, 4)))


def test_a_grid_of_another_length_is_refused_and_the_advice_helps() -> None:
    case = tiny.with_prompts(tiny.flux())
    request = SampleRequest(("a",), (0,), 4, {"height": 16, "width": 16, "sigmas": [1.0, 0.5]})
    with pytest.raises(OtcacheError, match="give num_inference_steps=2, or leave sigmas out"):
        list(TorchProbe().record(case.pipe, request))
    (run,) = TorchProbe().record(case.pipe, replace(request, num_steps=2))
    assert run.num_steps == 2


def test_a_skipped_call_costs_little() -> None:
    import time

    net = tiny.Velocity()
    loop = Loop(tiny.euler_sampler(net), net)
    with TorchExecutor().attach(loop, Schedule(400, (0,))):
        start = time.perf_counter()
        loop(["a"], [0], 400)
        seconds = time.perf_counter() - start
    assert seconds / 400 < 5e-3
