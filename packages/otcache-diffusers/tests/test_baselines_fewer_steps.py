"""Fewer steps with another sampler: against formulas written out here, and on real pipelines."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from flux_kit import FluxLaws
from torch import Tensor

from otcache_core.contracts import Baseline, SampleRequest
from otcache_core.errors import ExecutionError, OtcacheError
from otcache_core.loop import Loop
from otcache_core.plugins import Registry
from otcache_diffusers.baselines.fewer_steps import SAMPLERS
from otcache_diffusers.baselines.flow_solvers import FlowMatchScheduler

REQUEST = SampleRequest(("a",), (0,), 30)
BUDGETS = (5, 6, 8)
X = 0.7
Velocity = Callable[[float, float], float]


def baseline_of(name: str) -> Baseline:
    return Registry().create("baselines", f"fewer-steps-{name}")


def velocity(x: float, s: float) -> float:
    """Of a smooth flow that is not a sampler's special case."""
    return float(np.sin(3 * s) * x + np.cos(2 * x) - s)


def levels(n: int) -> tuple[list[float], list[float]]:
    """Return the noise levels of a scheduler with a shift, by their formula, and what it is given."""
    even = np.linspace(1.0, 1 / n, n)
    shifted = 3.0 * even / (1 + 2.0 * even)
    return [*shifted.tolist(), 0.0], even.tolist()


def sampled(name: str, n: int) -> float:
    """x_n of the sampler under test, one number at a time."""
    scheduler = SAMPLERS[name].scheduler(FlowMatchEulerDiscreteScheduler(shift=3.0))
    _, handed = levels(n)
    scheduler.set_timesteps(n, sigmas=handed)
    x = torch.tensor([[X]], dtype=torch.float64)
    for t in scheduler.timesteps:
        v = torch.tensor([[velocity(x.item(), t.item() / 1000)]], dtype=torch.float64)
        x = scheduler.step(v, t, x, return_dict=False)[0]
    return float(x)


def euler(n: int) -> float:
    s, _ = levels(n)
    x = X
    for i in range(n):
        x += (s[i + 1] - s[i]) * velocity(x, s[i])
    return x


def adams_bashforth(n: int) -> float:
    """Return the integral of the line through the last two velocities, by quadrature, not its formula."""
    s, _ = levels(n)
    x, seen = X, list[tuple[float, float]]()
    for i in range(n):
        seen = [*seen[-1:], (s[i], velocity(x, s[i]))]
        line = np.polynomial.Polynomial.fit(*zip(*seen, strict=True), deg=len(seen) - 1)
        x += float(line.integ()(s[i + 1]) - line.integ()(s[i]))
    return x


def dpmpp(n: int) -> float:
    """DPM-Solver++(2M), algorithm 2 of its paper, with alpha = 1 - s and sigma = s."""
    s, _ = levels(n)
    with np.errstate(divide="ignore"):
        lam = [np.log((1 - a) / a) if a else np.inf for a in s]
    x, before = X, None
    for i in range(n):
        clean = x - s[i] * velocity(x, s[i])
        h, d = lam[i + 1] - lam[i], clean
        if before is not None and i < n - 1:  # the last step, to s = 0, is of order 1
            r = (lam[i] - lam[i - 1]) / h
            d = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * before
        x = s[i + 1] / s[i] * x - (1 - s[i + 1]) * np.expm1(-h) * d
        before = clean
    return float(x)


def heun(n: int) -> float:
    """Return the trapezoidal rule with Euler's guess; Euler in the last step."""
    s, _ = levels(n)
    x = X
    for i in range(n):
        h, v = s[i + 1] - s[i], velocity(x, s[i])
        guess = x + h * v
        x = guess if i == n - 1 else x + h / 2 * (v + velocity(guess, s[i + 1]))
    return x


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("formula", [euler, adams_bashforth, dpmpp, heun])
def test_each_sampler_is_its_formula(formula: Callable[[int], float], n: int) -> None:
    """Computed here in float64; diffusers' levels are float32."""
    assert sampled(formula.__name__.replace("_", "-"), n) == pytest.approx(formula(n), abs=2e-6)


@functools.cache
def smooth_limit() -> float:
    return heun(20_000)


@pytest.mark.parametrize("name", ["adams-bashforth", "dpmpp", "unipc", "heun"])
def test_the_second_order_ones_converge_twice_as_fast(name: str) -> None:
    """On a smooth flow the error falls by about four where the number of steps doubles."""
    truth = smooth_limit()
    coarse, fine = (abs(sampled(name, n) - truth) for n in (24, 48))
    assert coarse / fine > 2.8


def test_every_sampler_is_offered_under_its_own_name() -> None:
    offered = [
        o.info for o in Registry().infos("baselines") if o.info.target.endswith(":FewerSteps")
    ]
    assert {info.name: info.options for info in offered} == {
        f"fewer-steps-{name}": {"sampler": name} for name in SAMPLERS
    }
    sources = {baseline_of(name).source for name in SAMPLERS}
    assert sources == {sampler.source for sampler in SAMPLERS.values()}
    with pytest.raises(OtcacheError, match=r"sampler must be one of own, euler, .*, got 'eulr'"):
        Registry().create("baselines", "fewer-steps-own", sampler="eulr")


# Euler steps as the pipeline's own scheduler does; UniPC's checks are those on Wan.


class TestOwn(FluxLaws):
    name = "fewer-steps-own"


class TestEuler(FluxLaws):
    name = "fewer-steps-euler"


class TestAdamsBashforth(FluxLaws):
    name = "fewer-steps-adams-bashforth"


class TestDPMPP(FluxLaws):
    name = "fewer-steps-dpmpp"


class TestHeun(FluxLaws):
    name = "fewer-steps-heun"


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_as_many_evaluations_as_the_budget_says(name: str) -> None:
    """Heun's are odd in number: at or just below the budget."""
    case, baseline = tiny.flux(), baseline_of(name)
    tiny.counted(case.denoiser)
    measured = baseline.calibrate(case.pipe, REQUEST, BUDGETS)
    settings = baseline.settings(30, BUDGETS, measured)
    wanted = [5, 5, 7] if name == "heun" else list(BUDGETS)
    for setting, calls in zip(settings, wanted, strict=True):
        before = tiny.calls_of(case.denoiser)
        with baseline.apply(case.pipe, setting, measured):
            case(steps=setting.num_steps)
        assert tiny.calls_of(case.denoiser) - before == calls
        assert setting.computed is None or len(setting.computed) == calls


def test_the_pipeline_hands_over_the_levels_it_hands_its_own_scheduler() -> None:
    """Flux gives its own sigmas, and none to a scheduler whose configuration mentions flow sigmas."""
    case = tiny.flux(scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    case(steps=5)
    levels_of_own = case.pipe.scheduler.sigmas.clone()
    for name in ("adams-bashforth", "dpmpp", "unipc"):
        stand_in = SAMPLERS[name].scheduler(case.pipe.scheduler)
        case.pipe.scheduler, own = stand_in, case.pipe.scheduler
        case(steps=5)
        case.pipe.scheduler = own
        assert torch.equal(stand_in.sigmas, levels_of_own)


def test_an_image_as_the_start_begins_in_the_middle_of_the_grid() -> None:
    """img2img sets the first index; the steps before it are never made."""
    stand_in = SAMPLERS["dpmpp"].scheduler(FlowMatchEulerDiscreteScheduler())
    stand_in.set_timesteps(6)
    stand_in.set_begin_index(4)
    x = torch.tensor([[X]], dtype=torch.float64)
    for t in stand_in.timesteps[4:]:
        v = torch.tensor([[velocity(x.item(), t.item() / 1000)]], dtype=torch.float64)
        x = stand_in.step(v, t, x)[0]
    s, first = stand_in.sigmas.double().tolist(), X
    first += (s[5] - s[4]) * velocity(first, s[4])
    first += (0 - s[5]) * velocity(first, s[5])
    assert float(x) == pytest.approx(first, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("euler", EulerDiscreteScheduler),
        ("dpmpp", DPMSolverMultistepScheduler),
        ("unipc", UniPCMultistepScheduler),
        ("heun", HeunDiscreteScheduler),
    ],
)
def test_other_schedulers_lend_their_configuration(name: str, solver: type) -> None:
    own = DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction")
    case = tiny.sdxl(scheduler=own)
    baseline = baseline_of(name)
    assert baseline.supports(case.pipe, REQUEST) == ""
    measured = baseline.calibrate(case.pipe, REQUEST, BUDGETS)
    setting = baseline.settings(30, BUDGETS, measured)[0]
    with baseline.apply(case.pipe, setting, measured):
        assert type(case.pipe.scheduler) is solver
        assert case.pipe.scheduler.config.prediction_type == "v_prediction"
        assert case.pipe.scheduler.config.beta_schedule == "scaled_linear"
        case(steps=setting.num_steps)
        assert len(case.pipe.scheduler.timesteps) == 5
    assert case.pipe.scheduler is own


@pytest.mark.parametrize(
    ("name", "own", "reason"),
    [
        ("adams-bashforth", DDIMScheduler(), "the pipeline has DDIMScheduler"),
        ("dpmpp", FlowMatchLCMScheduler(), "diffusers does not list DPMSolverMultistepScheduler"),
        ("unipc", FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "adds noise"),
        ("heun", FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "the pipeline's rise"),
        (
            "heun",
            UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
            "HeunDiscreteScheduler does not know flow predictions",
        ),
    ],
)
def test_what_does_not_fit_has_a_reason(name: str, own: Any, reason: str) -> None:
    case = tiny.flux()
    case.pipe.scheduler = own
    baseline = baseline_of(name)
    assert reason in baseline.supports(case.pipe, REQUEST)
    setting = baseline.settings(30, BUDGETS, {})[0]
    with pytest.raises(ExecutionError, match=reason), baseline.apply(case.pipe, setting, {}):
        pass


def test_a_call_that_fixes_its_grid_has_a_reason() -> None:
    request = SampleRequest(("a",), (0,), 30, {"sigmas": [1.0, 0.5]})
    reason = baseline_of("own").supports(tiny.flux().pipe, request)
    assert reason == "the call names its own sigmas, so the number of steps is fixed"


def test_a_loop_takes_fewer_steps_where_it_is_told_how_many() -> None:
    net = tiny.Velocity()
    sample = tiny.euler_sampler(net)
    loop = Loop(sample, net)
    own = baseline_of("own")
    assert own.supports(loop, REQUEST) == ""
    setting = own.settings(30, (4,), own.calibrate(loop, REQUEST, (4,)))[0]
    with own.apply(loop, setting, {}):
        assert torch.equal(loop(["a"], [0], setting.num_steps), sample(["a"], [0], 4))
    assert "cannot be exchanged" in baseline_of("dpmpp").supports(loop, REQUEST)
    fixed = Loop(lambda prompts, seeds: sample(prompts, seeds, 30), net, num_steps=30)
    assert "does not take its number of steps" in own.supports(fixed, REQUEST)
    assert "has no sampler" in own.supports(net, REQUEST)


def test_the_stand_in_answers_as_the_own_scheduler_and_can_be_copied() -> None:
    """Image-to-image asks for ``scale_noise``, Flux for entries of the configuration."""
    own = FlowMatchEulerDiscreteScheduler(shift=3.0)
    stand_in = SAMPLERS["dpmpp"].scheduler(own)
    assert isinstance(stand_in, FlowMatchScheduler)
    assert stand_in.config is not own.config
    assert stand_in.config.shift == 3.0
    own.set_timesteps(4)
    stand_in.set_timesteps(4)
    x, e = tiny.noise(1, 3), tiny.noise(1, 3, seed=2)
    t = own.timesteps[1:2]
    assert torch.equal(stand_in.scale_noise(x, t, e), own.scale_noise(x, t, e))
    twin = copy.deepcopy(stand_in)
    first, second = (_one_step(s) for s in (stand_in, twin))
    assert torch.equal(first, second)
    with pytest.raises(AttributeError):
        stand_in.no_such_thing  # noqa: B018  # the access is what is tested


def _one_step(scheduler: Any) -> Tensor:
    found: Tensor = scheduler.step(tiny.noise(2), scheduler.timesteps[0], tiny.noise(2, seed=3))[0]
    return found
