"""Schedulers that users wrap or write: other names, other results, times and noise levels of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DiffusionPipeline
from torch import nn

from otcache_core import ExecutionError, OtcacheError, Policy, Provenance, Schedule
from otcache_core.contracts import RunReport, SampleRequest
from otcache_core.errors import OtcacheNotice
from otcache_core.forecasters import Linear, Reuse
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks import sigma_grid
from otcache_diffusers.hooks.prediction import output_space
from otcache_diffusers.hooks.run_state import TimeCheck
from otcache_diffusers.recording.probe import TorchProbe

N = 8
SCHEDULE = Schedule(N, (0, 1, 4), "linear")
#: Without a look for plugins.
EXECUTOR = TorchExecutor({"reuse": Reuse(), "linear": Linear()}.__getitem__)
REQUEST = SampleRequest(("a", "b"), (0, 1), N)


@contextmanager
def attached(
    pipe: Any, plan: Any, executor: TorchExecutor = EXECUTOR, **more: Any
) -> Iterator[RunReport]:
    """Accelerate."""
    with executor.attach(pipe, plan, **more) as run:
        yield run.report


class Net(nn.Module):
    """A denoiser that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.calls = 0

    def forward(self, x: torch.Tensor, t: Any) -> torch.Tensor:
        self.calls += 1
        return torch.sin(self.weight * x) + torch.as_tensor(t).float() / 1000


class Sampler(DiffusionPipeline):
    """The loop of every pipeline, by a scheduler of any kind."""

    def __init__(self, scheduler: Any, call: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.register_to_config()
        self.transformer, self.scheduler = Net(), scheduler
        self.call = call or (lambda step, v, t, x: step(v, t, x))
        self.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def __call__(
        self,
        prompt: Any = "a",
        num_inference_steps: int = N,
        generator: Any = None,
        output_type: str = "latent",
        return_dict: bool = False,
    ) -> Any:
        generators = generator or [torch.Generator().manual_seed(0)]
        x = torch.stack([torch.randn(6, generator=g) for g in generators])
        if hasattr(self.scheduler, "set_timesteps"):
            self.scheduler.set_timesteps(num_inference_steps)
        times = getattr(self.scheduler, "timesteps", torch.linspace(1000, 125, num_inference_steps))
        with self.progress_bar(total=num_inference_steps) as bar:
            for t in times:
                made = self.call(self.scheduler.step, self.transformer(x, t), t, x)
                x = x if made is None else _tensor_of(made)
                bar.update()
        return (x,)


def _tensor_of(made: Any) -> torch.Tensor:
    if isinstance(made, dict):
        return next(iter(made.values()))
    if isinstance(made, SimpleNamespace):
        return made.latents
    return made if isinstance(made, torch.Tensor) else made[0]


class Euler:
    """A scheduler as a user writes it: no base class and no configuration."""

    def set_timesteps(self, num_inference_steps: int) -> None:
        self.sigmas: Any = torch.linspace(1, 0, num_inference_steps + 1)
        self.timesteps: Any = self.sigmas[:-1] * 1000
        self.made, self.of = 0, num_inference_steps

    def moved(self, v: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        self.made += 1
        return x - v / self.of

    def step(self, model_output: Any, timestep: Any, sample: Any) -> Any:
        return (self.moved(model_output, sample),)


def _stepping(step: Callable[..., Any], **more: Any) -> Euler:
    """Return a scheduler with this step."""
    return type("Stepping", (Euler,), {"step": step, **more})()


def _setting(change: Callable[[Any], None]) -> Euler:
    """Return a scheduler that changes what ``set_timesteps`` made."""

    def set_timesteps(self: Any, *args: Any) -> None:
        Euler.set_timesteps(self, *args)
        change(self)

    return type("Setting", (Euler,), {"set_timesteps": set_timesteps})()


def _in_place(self: Any, v: Any, t: Any, x: torch.Tensor) -> None:
    x.copy_(self.moved(v, x))


def _floats(self: Any) -> None:
    self.timesteps, self.sigmas = self.timesteps.tolist(), self.sigmas.tolist()


def _arrays(self: Any) -> None:
    self.timesteps, self.sigmas = self.timesteps.numpy(), tuple(self.sigmas.numpy())


def _objects(self: Any) -> None:
    self.timesteps, self.sigmas = list(self.timesteps), list(self.sigmas)


class _Wrapper:
    def __init__(self) -> None:
        self.inner = Euler()

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


#: Every kind of step, of what it returns, and of what a scheduler keeps.
KINDS: dict[str, Callable[[], Any]] = {
    "*args": lambda: _stepping(lambda self, *args, **kw: (self.moved(args[0], args[2]),)),
    "other names": lambda: _stepping(lambda self, noise_pred, t, latents: (self.moved(noise_pred, latents),)),
    "no names": lambda: _stepping(lambda self, a, b, c: (self.moved(a, c),)),
    "a list": lambda: _stepping(lambda self, v, t, x: [self.moved(v, x), None]),
    "a tensor": lambda: _stepping(lambda self, v, t, x: self.moved(v, x)),
    "a mapping": lambda: _stepping(lambda self, v, t, x: {"latents": self.moved(v, x)}),
    "an object": lambda: _stepping(lambda self, v, t, x: SimpleNamespace(latents=self.moved(v, x), t=t)),
    "nothing": lambda: _stepping(_in_place),
    "an index that stays": lambda: _stepping(Euler.step, step_index=0),
    "lists of tensors": lambda: _setting(_objects),
    "lists of floats": lambda: _setting(_floats),
    "arrays": lambda: _setting(_arrays),
    "a wrapper": _Wrapper,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_scheduler_of_any_kind_is_followed_and_recorded(kind: str) -> None:
    wanted, pipe = Sampler(Euler()), Sampler(KINDS[kind]())
    plain = wanted()[0]
    with attached(wanted, SCHEDULE):
        skipping = wanted()[0]
    with attached(pipe, Schedule.full(N)):
        assert torch.equal(pipe()[0], plain)
    pipe.transformer.calls = 0
    with attached(pipe, SCHEDULE) as report:
        assert torch.equal(pipe()[0], skipping)
    assert (pipe.transformer.calls, report.runs, report.warnings) == (3, 1, [])
    for got, full in zip(
        TorchProbe().record(pipe, REQUEST), TorchProbe().record(wanted, REQUEST), strict=True
    ):
        assert np.array_equal(got.grid, full.grid)
        assert np.array_equal(got.states, full.states)
        assert np.array_equal(got.outputs, full.outputs)


def _less(*names: str) -> Any:
    """Return a scheduler that lacks some of its parts, by which others are distinguished."""
    scheduler = _setting(lambda self: [delattr(self, name) for name in names if name in vars(self)])
    scheduler.num_inference_steps = N
    return scheduler


class _NoStart:
    def step(self, v: torch.Tensor, t: Any, x: torch.Tensor) -> Any:
        return (x - v / N,)


class _Hidden(Euler):
    @property
    def set_timesteps(self) -> Any:  # type: ignore[override]
        return lambda n: Euler.set_timesteps(self, n)


@pytest.mark.parametrize(
    "scheduler",
    [lambda: _less("sigmas"), lambda: _less("timesteps", "sigmas"), _NoStart, _Hidden],
    ids=["no noise levels", "no times", "no start", "a start that cannot be watched"],
)
def test_what_a_scheduler_does_not_say_is_counted(scheduler: Callable[[], Any]) -> None:
    pipe = Sampler(scheduler())
    with attached(pipe, SCHEDULE) as report:
        pipe()
        pipe()
    assert (report.runs, report.skipped, report.warnings) == (2, {"call": 10}, [])


def _says(name: str, value: Any) -> Any:
    """Return a scheduler that says something odd once its timesteps are set."""
    return _setting(lambda self: setattr(self, name, value))


class _Broken(Euler):
    @property
    def begin_index(self) -> int:
        raise RuntimeError("broken")


@pytest.mark.parametrize(
    "scheduler",
    [
        _Broken,
        lambda: _says("sigmas", torch.ones(N + 1, device="meta")),
        lambda: _says("timesteps", torch.linspace(1000, 125, N).to_sparse()),
    ],
    ids=["a property that fails", "no memory", "sparse times"],
)
def test_a_scheduler_that_cannot_be_read_leaves_the_run_computed(scheduler: Any) -> None:
    """Its errors came out of the pipeline's call."""
    pipe = Sampler(scheduler())
    plain = pipe()[0]
    with attached(pipe, SCHEDULE) as report:
        with pytest.warns(OtcacheNotice, match="cannot be counted: .* cannot be read"):
            assert torch.equal(pipe()[0], plain)
        pipe()  # and says it no more
    assert (report.skipped, report.uncounted, len(report.warnings)) == ({}, True, 1)
    with pytest.raises(ExecutionError, match="cannot be read"):
        list(TorchProbe().record(pipe, REQUEST))


class _Slots:
    __slots__ = ("sigmas", "timesteps")

    def set_timesteps(self, n: int) -> None:
        self.timesteps = torch.linspace(1000, 1000 / n, n)

    def step(self, v: torch.Tensor, t: Any, x: torch.Tensor) -> Any:
        return (x - v / N,)


class _Property(Euler):
    @property
    def step(self) -> Any:  # type: ignore[override]
        return lambda v, t, x: (self.moved(v, x),)


class _Open(_Slots):
    """As the notice advises."""


@pytest.mark.remedy("has __slots__ and no __dict__: leave __slots__ out")
@pytest.mark.remedy("is a {}: make it a method")
def test_a_step_that_cannot_be_watched_is_computed_and_refused_for_calibration() -> None:
    for scheduler, why, better in (
        (_Slots(), "_Slots has __slots__ and no __dict__: leave __slots__ out", _Open()),
        (_Property(), "_Property.step is a property: make it a method", Euler()),
    ):
        pipe = Sampler(scheduler)
        plain = pipe()[0]
        with (
            pytest.warns(OtcacheNotice, match=why) as heard,
            attached(pipe, SCHEDULE) as report,
        ):
            assert torch.equal(pipe()[0], plain)
        assert (len(heard), len(report.warnings), report.skipped) == (1, 1, {})
        calls = pipe.transformer.calls
        with pytest.raises(ExecutionError, match=why):
            list(TorchProbe().record(pipe, REQUEST))
        with pytest.raises(ExecutionError, match=why):
            attached(pipe, SCHEDULE, strict=True).__enter__()
        assert pipe.transformer.calls == calls
        with attached(Sampler(better), SCHEDULE) as report:
            pass
        assert not report.uncounted


@pytest.mark.remedy(
    "let it take model_output, timestep and sample, by these names or in this order"
)
@pytest.mark.remedy("and return (next_sample,)")
def test_a_step_that_cannot_be_read_is_followed_and_refused_by_name_for_calibration() -> None:
    odd = _stepping(lambda self, a, b, c: (self.moved(a, c),))
    foreign = Sampler(odd, lambda step, v, t, x: step(a=v, b=t, c=x))
    silent = _stepping(lambda self, v, t, x: (None, self.moved(v, x))[:1])
    lost = Sampler(silent, lambda step, v, t, x: [x - v / N, step(v, t, x)])
    for pipe in (foreign, lost):
        with attached(pipe, SCHEDULE) as report:
            pipe()
        assert (report.skipped, report.warnings) == ({"call": 5}, [])
        calls = pipe.transformer.calls
        with pytest.raises(ExecutionError, match=r"Stepping\.step must be given the denoiser's"):
            list(TorchProbe().record(pipe, REQUEST))
        assert pipe.transformer.calls == calls + 1
    list(TorchProbe().record(Sampler(odd), REQUEST))  # in this order
    list(TorchProbe().record(Sampler(Euler()), REQUEST))


# -- grids ----------------------------------------------------------------------------------------

POLICY = Policy(
    Schedule(20, (0, 5, 10)),
    Schedule(20, tuple(range(0, 20, 2))),
    Provenance(20, grid=tuple(np.linspace(1, 0, 21).tolist())),
)


def _plan(strict: bool = False) -> Callable[[Any], Schedule]:
    """Return what ``accelerate(pipe, POLICY, 6)`` gives the executor."""

    def plan(grid: Any) -> Schedule:
        known = grid if np.isfinite(grid).all() else None
        return POLICY.schedule(6, len(grid) - 1, known, strict=strict)

    return plan


def _levels(change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def give(self: Any) -> None:
        self.sigmas = change(self.sigmas)

    return _setting(give)


@pytest.mark.parametrize(
    ("change", "computed", "said"),
    [
        (lambda s: s.flip(0), N, "noise levels go the other way"),
        (lambda s: s[[0, 1, 2, 3, 1, 2, 3, 4, 8]], N, "grid must be monotone"),
        (lambda s: torch.where(s == 1, torch.nan, s), 6, "the schedule is mapped"),
        (lambda s: s[:-1], 6, "the schedule is mapped"),
        (lambda s: s[[0, 1, 1, 1, 2, 3, 4, 4, 8]], 6, "the schedule is mapped"),
    ],
    ids=["rising", "restarts", "not finite", "too few", "repeated"],
)
def test_a_policy_meets_any_grid(change: Any, computed: int, said: str) -> None:
    pipe = Sampler(_levels(change))
    plain, pipe.transformer.calls = pipe()[0], 0
    with pytest.warns(OtcacheNotice, match=said), attached(pipe, _plan()) as report:
        made = pipe()[0]
    assert pipe.transformer.calls == computed
    assert computed < N or torch.equal(made, plain)
    assert len(report.warnings) == 1
    refused = pytest.raises(OtcacheError, match=r"the run has 8 steps|must be monotone")
    with attached(pipe, _plan(strict=True), strict=True), refused:
        pipe()


@pytest.mark.parametrize("n", [4, 1])
def test_a_run_of_fewer_steps_than_the_budget_is_computed_and_the_next_is_not(n: int) -> None:
    pipe = Sampler(Euler())
    wanted = pipe(num_inference_steps=n)[0]
    with attached(pipe, _plan()) as report:
        pipe.transformer.calls = 0
        with pytest.warns(OtcacheNotice, match="the budget is 6: every step is computed"):
            assert torch.equal(pipe(num_inference_steps=n)[0], wanted)
        assert pipe.transformer.calls == n
        with pytest.warns(OtcacheNotice, match="the run has 12 steps"):
            pipe(num_inference_steps=12)
        assert pipe.transformer.calls == n + 6
    assert len(report.warnings) == 2


def test_an_inversion_s_grid_rises_to_its_end() -> None:
    scheduler = DDIMInverseScheduler(clip_sample=False)
    scheduler.set_timesteps(N)
    assert (np.diff(sigma_grid(scheduler)) >= 0).all()
    assert sigma_grid(scheduler)[-1] > 1


def test_a_velocity_scheduler_that_cannot_be_copied_keeps_velocities() -> None:
    scheduler = DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    scheduler.set_timesteps(N)
    scheduler.lock = iter([]).__reduce__  # what no copy is made of
    scheduler.scale_model_input = lambda x: x
    assert "does not show how it scales states" in output_space(scheduler, 0).reason


# -- forecasts ------------------------------------------------------------------------------------


class _Failing:
    """A forecaster of a plugin that fails in some spans."""

    def __init__(self, fails: Callable[[Any], Any]) -> None:
        self._fails = fails

    def coefficients(self, span: Any, grid: Any) -> Any:
        return self._fails(span)


def _from_four(span: Any) -> Any:
    rows = len(span.skipped)
    return np.full((rows, 1), np.nan) if span.start == 4 else np.ones((rows, 1))


@pytest.mark.parametrize(
    ("fails", "skipped", "said"),
    [
        (_from_four, 2, r"the span \(4 -> 8\), got \[\[nan\]"),
        (lambda span: span.nothing, 0, r"the spans \(1 -> 4\), \(4 -> 8\), got AttributeError"),
        (lambda span: [1.0], 0, r"got an array of shape \(1,\)"),
    ],
)
def test_a_span_that_cannot_be_forecast_is_computed(fails: Any, skipped: int, said: str) -> None:
    pipe = Sampler(Euler())
    executor = TorchExecutor(lambda name: _Failing(fails))
    with attached(pipe, SCHEDULE, executor=executor) as report:
        with pytest.warns(OtcacheNotice, match=said) as heard:
            pipe()
        pipe()
    assert pipe.transformer.calls == 2 * (N - skipped)
    assert len(heard) == len(report.warnings) == 1
    with (
        pytest.raises(ExecutionError, match=said),
        attached(pipe, SCHEDULE, executor=executor, strict=True),
    ):
        pipe()


def test_a_plan_that_raises_leaves_the_run_computed() -> None:
    pipe = Sampler(Euler())
    with (
        pytest.warns(OtcacheNotice, match="cannot follow its plan, .* ZeroDivisionError: integer"),
        attached(pipe, lambda grid: Schedule(1 // 0, (0,))) as report,
    ):
        pipe()
    assert (report.computed, report.planned) == ({"call": N}, tuple(range(N)))


# -- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "time",
    [
        *(np.array(["late"]), np.array([None]), 10**400, torch.empty(0), torch.tensor(1j)),
        *(torch.ones(1, device="meta"), torch.ones(2).to_sparse(), np.array(7, dtype=np.uint64)),
        *(torch.tensor(7, dtype=torch.uint16), torch.tensor(7.0).to(torch.float8_e4m3fn)),
    ],
    ids=lambda time: f"{type(time).__name__} {getattr(time, 'dtype', '')}",
)
def test_times_that_cannot_be_compared_are_passed_by(time: Any) -> None:
    """What torch cannot order, or make a tensor of, came as an error out of the pipeline's call."""
    pipe = Sampler(Euler())
    pipe.transformer.forward = lambda x, t: torch.sin(x)
    with attached(pipe, SCHEDULE) as report:
        pipe.scheduler.set_timesteps(N)
        x = torch.ones(2)
        for _ in range(N):
            # Another object for each step, as a loop over timesteps has.
            t = time.clone() if isinstance(time, torch.Tensor) else time
            x = pipe.scheduler.step(pipe.transformer(x, t), t, x)[0]
    assert (report.runs, report.skipped, report.warnings) == (1, {"call": 5}, [])


@pytest.mark.parametrize(("last", "moved"), [(500.0, False), (400.0, True)])
def test_times_that_are_no_numbers_are_not_compared(last: float, moved: bool) -> None:
    check = TimeCheck()
    check.begin(torch.tensor([1000, torch.nan, 500]))
    for step, time in enumerate((1000.0, torch.nan, last)):
        check.see(step, torch.tensor(time))
    assert check.failed() == moved
