"""Velocity predictions are kept as epsilon: against fields whose epsilon is known, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import nn

from otcache_core import ExecutionError, Playback, Policy, Provenance, Schedule
from otcache_core.contracts import Forecaster, SampleRequest
from otcache_core.errors import OtcacheNotice
from otcache_diffusers.evaluation.evaluator import PipelineEvaluator
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.execution.output_cache import TorchArithmetic
from otcache_diffusers.hooks import drive, sigma_grid
from otcache_diffusers.hooks.prediction import AsIs, CallPosition, NoiseSpace, output_space
from otcache_diffusers.hooks.run_state import RunState
from otcache_diffusers.hooks.scheduler_steps import SchedulerSteps
from otcache_diffusers.recording.probe import TorchProbe
from otcache_diffusers.recording.recorder import Recorder

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
N, CHANNELS = 10, 4
ALPHA = 1 / np.sqrt(1 + np.array([4.0, 2.0]) ** 2)
V = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}
DETERMINISTIC: dict[str, Callable[[], Any]] = {
    "ddim": lambda: DDIMScheduler(clip_sample=False, **V),
    "ddim, zero terminal signal": lambda: DDIMScheduler(
        clip_sample=False, rescale_betas_zero_snr=True, timestep_spacing="trailing", **V
    ),
    "pndm": lambda: PNDMScheduler(skip_prk_steps=True, **V),
    "euler": lambda: EulerDiscreteScheduler(**V),
    "heun": lambda: HeunDiscreteScheduler(**V),
    "dpm++2m": lambda: DPMSolverMultistepScheduler(**V),
    "unipc": lambda: UniPCMultistepScheduler(**V),
}
#: PNDM adds up velocities of several steps, so its own epsilon is not constant even here.
STRAIGHT = [name for name in DETERMINISTIC if name != "pndm"]


class Field(nn.Module):
    """v of a single data point; ``bend`` adds to its epsilon, ``more`` channels of variances follow.

    Along a trajectory to a single data point epsilon is constant, and v is not.
    """

    def __init__(self, scheduler: Any, bend: float = 0.0, more: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        a = scheduler.alphas_cumprod.double().clamp(min=1e-300).numpy()
        self._times, self._s = np.arange(len(a)), np.sqrt((1 - a) / a)
        self._bend, self._more = bend, more
        self.made: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        s = float(np.interp(float(t), self._times, self._s))
        alpha, sigma = 1 / np.hypot(1, s), 1 / np.hypot(1, 1 / s)
        x = x[:, :CHANNELS].double()
        goal = tiny.noise(CHANNELS, 1, 1, seed=7).double()
        v = alpha * (x - alpha * goal) / sigma - sigma * goal
        v = v + self._bend * alpha * torch.tanh(x)
        variances = torch.cos(x[:, : self._more] * 3)
        return torch.cat([v, variances], dim=1).to(self.weight.dtype)


class Plain(DiffusionPipeline):
    """The loop that every pipeline of diffusers has, in nine lines."""

    def __init__(self, unet: nn.Module, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        steps: int = N,
        batch: int = 2,
        guided: bool = False,
        image: torch.Tensor | None = None,
        scale: bool = True,
    ) -> torch.Tensor:
        self.scheduler.set_timesteps(steps)
        dtype = self.unet.weight.dtype
        x = tiny.noise(batch, CHANNELS, 3, 3).to(dtype) * float(self.scheduler.init_noise_sigma)
        for t in self.scheduler.timesteps:
            given = torch.cat([x, x]) if guided else x
            given = self.scheduler.scale_model_input(given, t) if scale else given
            given = given if image is None else torch.cat([image, given][:: -1 if scale else 1], 1)
            v = self.unet(given, t)
            v = 3 * v[:batch] - 2 * v[batch:] if guided else v
            x = self.scheduler.step(v[:, :CHANNELS], t, x, return_dict=False)[0]
        return x


def _pipe(scheduler: Any, dtype: torch.dtype = torch.float64, **field: Any) -> Plain:
    return Plain(Field(scheduler, **field).to(dtype), scheduler)


def _steps(pipe: Plain) -> int:
    pipe.scheduler.set_timesteps(N)
    return len(pipe.scheduler.timesteps)


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).double().norm() / b.double().norm())


@pytest.fixture
def unconverted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forecast v itself, as everybody else does."""
    home = "otcache_diffusers.hooks.scheduler_steps"
    monkeypatch.setattr(f"{home}.output_space", lambda scheduler, start: AsIs())


@pytest.mark.parametrize("name", STRAIGHT)
def test_one_computed_step_is_exact_where_epsilon_is_constant(name: str) -> None:
    pipe = _pipe(DETERMINISTIC[name]())
    full = pipe()
    with TorchExecutor().attach(pipe, Schedule(_steps(pipe), (0,))) as run:
        reused = pipe()
    assert run.report.computed == {"call": 1}
    assert run.report.warnings == []
    assert _distance(reused, full) < 1e-5


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++2m", "unipc"])
def test_a_follower_of_the_exported_table_converts_as_the_executor_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, schedule = _pipe(DETERMINISTIC[name](), bend=0.5), Schedule(N, (0, 1, 4, 7), "linear")
    with TorchExecutor().attach(pipe, schedule):
        wanted = pipe()
    grid = tuple(sigma_grid(pipe.scheduler).tolist())
    facts = Provenance(N, prediction_type="v_prediction", grid=grid)
    playback = Playback(Policy(schedule, schedule, facts).export(4), TorchArithmetic())
    forward, steps = pipe.unet.forward, iter(range(N))

    def followed(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        output = playback.forecast("", step := next(steps), x)
        if output is None:
            output = forward(x, t)
            playback.keep("", step, output, x)
        return output

    monkeypatch.setattr(pipe.unet, "forward", followed)
    playback.begin()
    assert _distance(pipe(), wanted) < 1e-5


@pytest.mark.parametrize("name", STRAIGHT)
@pytest.mark.usefixtures("unconverted")
def test_reuse_of_the_velocity_itself_is_not(name: str) -> None:
    pipe = _pipe(DETERMINISTIC[name]())
    full = pipe()
    with TorchExecutor().attach(pipe, Schedule(_steps(pipe), (0,))):
        assert _distance(pipe(), full) > 0.1


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", ["ddim", "ddim, zero terminal signal", "euler"])
def test_reuse_is_sampling_on_the_sub_grid(name: str, guided: bool) -> None:
    r"""In x / alpha both are Euler steps along epsilon; the field bends, so epsilon does too."""
    pipe = _pipe(DETERMINISTIC[name](), bend=0.3)
    schedule = Schedule(N, (0, 1, 4, 7))
    with TorchExecutor().attach(pipe, schedule) as run:
        reused = pipe(guided=guided)
    assert run.report.skipped == {"call": 6}
    grid = sigma_grid(pipe.scheduler)
    alpha = 1 / np.sqrt(1 + grid**2)
    start = pipe.scheduler.init_noise_sigma
    x = tiny.noise(2, CHANNELS, 3, 3).double() * float(start)
    stretched = name == "euler"
    x = x if stretched else x / alpha[0]
    for k, j in pairwise((*schedule.computed, N)):
        inside = x * alpha[k]
        v = pipe.unet(inside, pipe.scheduler.timesteps[k])
        x = x + (grid[j] - grid[k]) * (alpha[k] * v + grid[k] * alpha[k] * inside)
    assert _distance(reused, x.detach() if stretched else x.detach() * alpha[N]) < 2e-5


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_everything_computed_is_bit_identical(name: str) -> None:
    pipe = _pipe(DETERMINISTIC[name](), torch.float32, bend=0.3)
    plain = pipe(guided=True)
    with TorchExecutor().attach(pipe, Schedule.full(_steps(pipe))) as run:
        assert torch.equal(pipe(guided=True), plain)
    assert run.report.warnings == []
    assert not [name for name, value in vars(pipe.scheduler).items() if callable(value)]


class _Given:
    """What the sampler is given, step by step."""

    def __init__(self, pipe: Plain) -> None:
        self.seen: list[torch.Tensor] = []
        pipe.unet.register_forward_hook(lambda module, args, output: self.seen.append(output))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_forecast_has_the_type_of_the_output_and_half_the_precision_is_enough(
    dtype: torch.dtype,
) -> None:
    pipe = _pipe(DETERMINISTIC["ddim"](), dtype)
    full, given = pipe(), _Given(pipe)
    with TorchExecutor().attach(pipe, Schedule(N, (0,))) as run:
        reused = pipe()
    assert {v.dtype for v in given.seen} == {dtype}
    assert _distance(reused, full) < 20 * torch.finfo(dtype).eps
    assert run.report.peak_cached_bytes == 4 * full.numel()  # epsilon, in float32


def test_learned_variances_are_reused_as_they_are() -> None:
    pipe = _pipe(DETERMINISTIC["ddim"](), more=4)
    full, given = pipe(), _Given(pipe)
    with TorchExecutor().attach(pipe, Schedule(N, (0,))):
        reused = pipe()
    assert _distance(reused, full) < 1e-5
    for v in given.seen[1:]:
        assert torch.equal(v[:, CHANNELS:], given.seen[0][:, CHANNELS:])


@pytest.mark.parametrize("channels", [1, 5])
def test_inputs_with_a_mask_behind_the_latent_are_known_by_it(channels: int) -> None:
    pipe = _pipe(DETERMINISTIC["euler"]())
    image = tiny.noise(2, channels, 3, 3).double()
    full = pipe(image=image)
    with TorchExecutor().attach(pipe, Schedule(N, (0,))) as run:
        assert _distance(pipe(image=image), full) < 1e-5
    assert run.report.warnings == []


def test_where_no_input_has_the_output_s_shape_velocities_are_kept_and_it_is_said_once() -> None:
    """Marigold: the image comes first, and nothing is scaled."""
    pipe = _pipe(DETERMINISTIC["ddim"]())
    image = tiny.noise(2, CHANNELS, 3, 3).double()
    call = {"image": image, "scale": False}
    plain, given = pipe(**call), _Given(pipe)
    with TorchExecutor().attach(pipe, Schedule.full(N)):
        assert torch.equal(pipe(**call), plain)
    given.seen.clear()
    with TorchExecutor().attach(pipe, Schedule(N, (0, 5))) as run:
        pipe(**call)
        pipe(**call)
    assert given.seen[1] is given.seen[0]
    (message,) = run.report.warnings
    assert "no denoiser input has the shape of the output" in message


def test_an_unscaled_input_of_a_sampler_that_stretches_is_not_trusted() -> None:
    space = NoiseSpace(ALPHA, stretched=True)
    v, x = torch.ones(1, 2), torch.ones(1, 2)
    assert space.from_output(CallPosition(0, "call", None, x), v) is v
    assert "no denoiser input" in space.reason


def test_a_state_that_is_lost_mid_run_is_an_error() -> None:
    space = NoiseSpace(ALPHA, stretched=False)
    v, x = torch.ones(1, 2), torch.ones(1, 2)
    held = space.from_output(CallPosition(0, "call", x, None), v)
    with pytest.raises(ExecutionError, match="step 1: the state of branch 'call' must have"):
        space.to_output(CallPosition(1, "call", None, torch.ones(1, 3)), held)


class _Until:
    """True for a number of times."""

    def __init__(self, times: int) -> None:
        self._left = times

    def __bool__(self) -> bool:
        self._left -= 1
        return self._left >= 0


@pytest.mark.remedy("let the pipeline call scheduler.scale_model_input at every step or at none")
@pytest.mark.remedy(
    "and changed: let the pipeline call scheduler.scale_model_input at every step or at none"
)
def test_a_run_whose_states_are_lost_is_computed_from_there_on() -> None:
    pipe = _pipe(DETERMINISTIC["euler"]())
    with TorchExecutor().attach(pipe, Schedule(N, (0, 2))) as run:
        with pytest.warns(OtcacheNotice, match="step 4: the state of branch 'call' must have"):
            pipe(scale=_Until(4))
        assert run.report.skipped == {"call": 2}
        pipe(scale=_Until(N))  # as the notice advises
    assert run.report.skipped == {"call": 2 + N - 2}


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: (v, None), lambda v: {"sample": v}])
def test_leaving_undoes_entering(wrap: Callable[[torch.Tensor], Any]) -> None:
    space = NoiseSpace(ALPHA, stretched=False)
    x, v = tiny.noise(2, 4, 3, 3, seed=1), tiny.noise(2, 8, 3, 3, seed=2)
    before = v.clone()
    place = CallPosition(1, "call", x, None)
    held = space.from_output(place, wrap(v))
    (eps,) = [leaf for leaf in torch.utils._pytree.tree_leaves(held) if leaf is not None]
    torch.testing.assert_close(eps[:, :4], v[:, :4] / 5**0.5 + x * 2 / 5**0.5)
    (back,) = [
        leaf
        for leaf in torch.utils._pytree.tree_leaves(space.to_output(place, held))
        if leaf is not None
    ]
    torch.testing.assert_close(back, v)
    assert torch.equal(v, before)


def test_the_probe_sees_epsilon_after_guidance() -> None:
    for name in ("ddim", "euler"):
        pipe = _pipe(DETERMINISTIC[name](), torch.float32)
        recorder = Recorder()
        with drive(pipe, recorder):
            pipe(guided=True)
        assert recorder.run is not None
        for run in recorder.trajectories(["a", "b"], recorder.run.grid):
            spread = np.ptp(run.outputs, axis=0)
            assert spread.max() < 1e-4 * np.abs(run.outputs).max()


def test_scheduler_steps_leave_no_trace_if_they_watch() -> None:
    scheduler = DETERMINISTIC["euler"]()
    before = sorted(vars(scheduler))
    with SchedulerSteps(SimpleNamespace(scheduler=scheduler), RunState(Recorder()), lambda: None):
        assert "scale_model_input" in vars(scheduler)
    assert sorted(vars(scheduler)) == before


def test_a_sampler_that_scales_in_its_own_way_is_left_alone() -> None:
    scheduler = EDMEulerScheduler(prediction_type="v_prediction")
    scheduler.set_timesteps(N)
    space = output_space(scheduler, 0)
    assert isinstance(space, AsIs)
    assert "EDMEulerScheduler scales the denoiser's input in a way of its own" in space.reason


@pytest.mark.parametrize("kind", ["epsilon", "sample"])
def test_other_predictions_are_kept_as_they_are(kind: str) -> None:
    scheduler = DDIMScheduler(prediction_type=kind)
    scheduler.set_timesteps(N)
    space = output_space(scheduler, 0)
    assert isinstance(space, AsIs)
    assert space.reason == ""


def test_linear_forecasts_extrapolate_epsilon() -> None:
    class Twice(Forecaster):
        def coefficients(self, span: Any, grid: Any) -> Any:
            return np.tile([2.0, -1.0], (len(span.skipped), 1))

    pipe = _pipe(DETERMINISTIC["ddim"](), bend=0.3)
    states: list[torch.Tensor] = []
    pipe.unet.register_forward_pre_hook(lambda module, args: states.append(args[0]))
    given = _Given(pipe)
    schedule = Schedule(N, (0, 1, 2, 4, 5, 6, 7, 8, 9), "linear")
    with TorchExecutor(lambda name: Twice()).attach(pipe, schedule):
        pipe()
    grid = sigma_grid(pipe.scheduler)
    alpha = 1 / np.sqrt(1 + grid**2)
    pairs = zip(given.seen, states, strict=True)
    eps = [alpha[t] * (v + grid[t] * x) for t, (v, x) in enumerate(pairs)]
    torch.testing.assert_close(eps[3], 2 * eps[2] - eps[1])


class Asked(Plain):
    """A pipeline as calibration calls it, whose denoiser sees an image before the latent."""

    def __call__(  # type: ignore[override]  # another pipeline
        self, prompt: list[str], num_inference_steps: int, **given: Any
    ) -> tuple[torch.Tensor]:
        image = tiny.noise(len(prompt), CHANNELS, 3, 3).double()
        return (super().__call__(num_inference_steps, len(prompt), False, image, False),)


def test_calibration_reports_once_that_velocities_are_kept() -> None:
    scheduler = DETERMINISTIC["ddim"]()
    pipe = Asked(Field(scheduler, bend=0.3).double(), scheduler)
    request = SampleRequest(("a", "b"), (0, 1), N)
    built = PipelineEvaluator(pipe, request, list(TorchProbe().record(pipe, request)))
    asked = [Schedule(N, (0, 2, 5)), Schedule.full(N)]
    with pytest.warns(OtcacheNotice) as given:
        first, errors = (built.evaluate(asked, fit=True).errors for _ in range(2))
    assert np.array_equal(first, errors)
    assert [str(notice.message).count("no denoiser input") for notice in given] == [1]
    assert np.isfinite(errors).all()
    assert (errors[1] == 0).all()
