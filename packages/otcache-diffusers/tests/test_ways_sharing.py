"""Several pipelines at once: of one class, over shared weights, and in threads of their own."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import tiny
import torch
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxPipeline,
)
from families import Case
from families.stable_diffusion import xl_controlnet

from otcache_core import Schedule
from otcache_diffusers.execution.block_executor import BlockExecutor
from otcache_diffusers.execution.executor import TorchExecutor

N = 6
SCHEDULE = Schedule(N, (0, 1, 4), "linear")
OTHER = Schedule(N, (0, 2, 3, 5))


def _accelerated(case: tiny.Case, schedule: Schedule, seed: int) -> torch.Tensor:
    with TorchExecutor().attach(case.pipe, schedule):
        return case(N, seed=seed)


def _twin(case: tiny.Case) -> tiny.Case:
    """Another pipeline of the very class over the same weights, with a scheduler of its own."""
    pipe = FluxPipeline.from_pipe(case.pipe)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    pipe.set_progress_bar_config(disable=True)
    return tiny.Case(pipe, case.call, case.branches)


def _sibling(case: tiny.Case) -> tiny.Case:
    """Return a pipeline over the same weights and the same scheduler, as ``from_pipe`` makes it."""
    pipe = FluxImg2ImgPipeline.from_pipe(case.pipe)
    pipe.set_progress_bar_config(disable=True)
    call = {**case.call, "image": torch.full((1, 3, 16, 16), 0.5), "strength": 1.0}
    return tiny.Case(pipe, call, case.branches)


# -- one class ----------------------------------------------------------------------------------


def test_two_pipelines_of_one_class_follow_their_own_schedules() -> None:
    one, two = tiny.flux(), tiny.flux()
    wanted = [_accelerated(one, SCHEDULE, 0), _accelerated(two, OTHER, 1)]
    with (
        TorchExecutor().attach(one.pipe, SCHEDULE) as first,
        TorchExecutor().attach(two.pipe, OTHER) as second,
    ):
        made = [one(N, seed=0), two(N, seed=1)]
    assert all(torch.equal(a, b) for a, b in zip(made, wanted, strict=True))
    assert (first.report.skipped, second.report.skipped) == ({"cond": 3}, {"cond": 2})


def test_a_run_inside_another_pipeline_s_run_does_not_disturb_it() -> None:
    one, two = tiny.flux(), tiny.flux()
    wanted = [_accelerated(one, SCHEDULE, 0), _accelerated(two, OTHER, 1)]
    inner: list[torch.Tensor] = []

    def between(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        if step == 2:
            inner.append(two(N, seed=1))
        return kwargs

    with (
        TorchExecutor().attach(one.pipe, SCHEDULE),
        TorchExecutor().attach(two.pipe, OTHER),
    ):
        outer = one(N, seed=0, callback_on_step_end=between)
    assert torch.equal(outer, wanted[0])
    assert torch.equal(inner[0], wanted[1])


# -- shared weights -----------------------------------------------------------------------------


def test_a_sibling_is_accelerated_while_the_context_is_open_and_plain_after() -> None:
    case = tiny.flux()
    sibling = _sibling(case)
    plain = sibling(N)
    wanted = _accelerated(sibling, SCHEDULE, 0)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        case(N)
        assert run.report.warnings == []  # it is there, and nothing was done by it
        assert torch.equal(sibling(N), wanted)
        case(N)
    assert run.report.skipped == {"cond": 6, "call": 3}
    [said] = run.report.warnings
    assert "FluxImg2ImgPipeline shares the denoiser and the scheduler" in said
    assert torch.equal(sibling(N), plain)


def test_a_twin_with_a_scheduler_of_its_own_is_computed_with_a_warning() -> None:
    case = tiny.flux()
    twin = _twin(case)
    plain = twin(N)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        assert torch.equal(twin(N), plain)
    assert run.report.skipped == {}
    assert "outside a run of this target's own sampler" in run.report.warnings[0]
    assert not any("accelerated too" in said for said in run.report.warnings)


def _with_twin(case: tiny.Case, after: int, steps: int) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Run ``case`` with a run of its twin after a step: both images and the report."""
    twin = _twin(case)
    inner: list[torch.Tensor] = []

    def between(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        if step == after:
            inner.append(twin(steps, seed=1))
        return kwargs

    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        outer = case(N, callback_on_step_end=between)
    return outer, inner[0], run.report


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("after", range(N - 1))
def test_a_twin_inside_a_run_is_computed_and_disturbs_nothing(after: int, steps: int) -> None:
    """Its calls have the very shape and branch of the run's own, before skipped steps too."""
    case = tiny.flux()
    plain = _twin(case)(steps, seed=1)
    wanted = _accelerated(case, SCHEDULE, 0)
    outer, inner, report = _with_twin(case, after, steps)
    assert torch.equal(inner, plain)
    assert torch.equal(outer, wanted)
    assert (report.runs, report.computed, report.skipped) == (1, {"cond": 3}, {"cond": 3})
    assert any("outside a run of this target's own sampler" in w for w in report.warnings)


def test_a_twin_inside_a_run_has_its_controlnet_computed_too() -> None:
    case = xl_controlnet()
    twin = type(case.pipe)(**case.pipe.components | {"scheduler": EulerDiscreteScheduler()})
    twin.set_progress_bar_config(disable=True)
    other = Case(twin, dict(case.call), case.branches, "unet")
    plain, made = other(), []

    def between(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        if step == 1:
            made.append(other())
        return kwargs

    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        wanted = case()
        case.call["callback_on_step_end"] = between
        assert torch.equal(case(), wanted)
    assert torch.equal(made[0], plain)
    assert run.report.auxiliary == {"controlnet": (6, 6)}


# -- threads ------------------------------------------------------------------------------------


def test_threads_with_a_pipeline_each_give_what_they_give_alone() -> None:
    width = 3
    cases = [tiny.flux(cfg=True) for _ in range(width)]
    wanted = [_accelerated(case, SCHEDULE, seed) for seed, case in enumerate(cases)]
    barrier = threading.Barrier(width)

    def serve(seed: int) -> list[torch.Tensor]:
        barrier.wait(timeout=60)
        return [_accelerated(cases[seed], SCHEDULE, seed) for _ in range(3)]

    with warnings.catch_warnings(), ThreadPoolExecutor(width) as pool:
        warnings.simplefilter("error")
        for seed, made in enumerate(pool.map(serve, range(width))):
            assert all(torch.equal(x, wanted[seed]) for x in made)
    assert all("forward" not in vars(case.denoiser) for case in cases)


def _beside(case: tiny.Case, after: int, work: Callable[[], Any]) -> Future[Any]:
    """Run ``case`` with some work in another thread after a step."""
    done: list[Future[Any]] = []

    def between(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        if step == after:
            with ThreadPoolExecutor(1) as pool:
                done.append(pool.submit(work))
        return kwargs

    wanted = _accelerated(case, SCHEDULE, 0)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        assert torch.equal(case(N, callback_on_step_end=between), wanted)
    assert (run.report.runs, run.report.skipped) == (1, {"cond": 3})
    assert len(run.report.warnings) == (done[0].exception() is None)
    return done[0]


@pytest.mark.remedy("give each thread a pipeline with a scheduler of its own (pipe.scheduler =")
@pytest.mark.parametrize("after", [0, 3])
def test_another_thread_s_run_on_a_pipeline_is_refused_and_disturbs_nothing(after: int) -> None:
    case = tiny.flux()
    error = _beside(case, after, lambda: case(N, seed=1)).exception()
    assert "one scheduler must serve one run at a time" in str(error)
    other = _twin(case)  # as the error advises
    assert torch.equal(_beside(case, after, lambda: other(N, seed=1)).result(), other(N, seed=1))


@pytest.mark.parametrize("after", [0, 3])
def test_a_call_of_another_thread_is_computed(after: int) -> None:
    case = tiny.flux()
    given: list[dict[str, Any]] = []
    watch = case.denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs), with_kwargs=True
    )
    case(N)
    watch.remove()
    with torch.no_grad():
        plain = case.denoiser(**given[2])[0]

    def call() -> torch.Tensor:
        with torch.no_grad():
            made: torch.Tensor = case.denoiser(**given[2])[0]
        return made

    assert torch.equal(_beside(case, after, call).result(), plain)


# -- runs in steps ------------------------------------------------------------------------------


def _steps(case: tiny.Case) -> Iterator[torch.Tensor]:
    """Return a loop of one's own around the scheduler and the transformer of a pipeline."""
    pipe, x = case.pipe, tiny.noise(1, 64, 4)
    pipe.scheduler.set_timesteps(N, mu=0.0)
    for t in pipe.scheduler.timesteps:
        x = pipe.scheduler.step(_velocity(case, x, t), t, x, return_dict=False)[0]
        yield x


def _velocity(case: tiny.Case, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        made: torch.Tensor = case.denoiser(
            hidden_states=x,
            timestep=t.expand(1) / 1000,
            pooled_projections=case.call["pooled_prompt_embeds"],
            encoder_hidden_states=case.call["prompt_embeds"],
            txt_ids=torch.zeros(12, 3),
            img_ids=torch.zeros(64, 3),
            return_dict=False,
        )[0]
    return made


def test_a_generator_around_a_scheduler_may_be_resumed_in_any_thread_and_shares_its_pauses() -> (
    None
):
    case = tiny.flux()
    x, t = tiny.noise(1, 64, 4, seed=2), torch.tensor(500.0)
    plain = _velocity(case, x, t)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        wanted = list(_steps(case))[-1]
        steps = _steps(case)
        for _ in range(N):
            with ThreadPoolExecutor(1) as pool:
                made = pool.submit(next, steps).result()
            assert torch.equal(_velocity(case, x, t), plain)
        assert next(steps, None) is None
    assert torch.equal(made, wanted)
    assert (run.report.runs, run.report.skipped) == (2, {"call": 6})
    assert ["outside a run of" in said for said in run.report.warnings] == [True]


class Coroutine(FluxPipeline):  # type: ignore[misc]
    """Awaits its transformer, which is called in other threads."""

    async def __call__(self, case: tiny.Case, num_inference_steps: int = N) -> torch.Tensor:
        self.scheduler.set_timesteps(num_inference_steps, mu=0.0)
        x = tiny.noise(1, 64, 4)
        for t in self.scheduler.timesteps:
            v = await asyncio.to_thread(_velocity, case, x, t)
            x = self.scheduler.step(v, t, x, return_dict=False)[0]
        return x


def test_pipelines_that_are_coroutines_are_distinguished_in_one_event_loop() -> None:
    base = tiny.flux()
    wanted = []
    for schedule in (SCHEDULE, OTHER):
        with TorchExecutor().attach(base.pipe, schedule):
            wanted.append(list(_steps(base))[-1])

    async def main() -> list[torch.Tensor]:
        one, two = (Coroutine(**_twin(base).pipe.components) for _ in range(2))
        with (
            TorchExecutor().attach(one, SCHEDULE) as first,
            TorchExecutor().attach(two, OTHER) as second,
        ):
            made = await asyncio.gather(one(base), two(base))
        assert (first.report.computed, second.report.computed) == ({"call": 3}, {"call": 4})
        assert first.report.warnings + second.report.warnings == []
        return list(made)

    for made, alone in zip(asyncio.run(main()), wanted, strict=True):
        assert torch.equal(made, alone)


# -- request-scoped pipelines -------------------------------------------------------------------


def test_twins_have_a_schedule_each_in_threads_of_their_own() -> None:
    """As diffusers' own example of a server has it: one transformer, a scheduler for each request."""
    base = tiny.flux(cfg=True)
    schedules = [SCHEDULE, OTHER, Schedule(N, (0, 5))]
    twins = [_twin(base) for _ in schedules]
    wanted = [_accelerated(twin, schedules[i], i) for i, twin in enumerate(twins)]
    barrier = threading.Barrier(len(twins))

    def serve(i: int) -> tuple[torch.Tensor, Any]:
        def together(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
            barrier.wait(timeout=60)  # each step of all, before the next of any
            return kwargs

        with TorchExecutor().attach(twins[i].pipe, schedules[i]) as run:
            return twins[i](N, seed=i, callback_on_step_end=together), run

    with ThreadPoolExecutor(len(twins)) as pool:
        done = list(pool.map(serve, range(len(twins))))
    for i, (made, run) in enumerate(done):
        assert torch.equal(made, wanted[i])
        skipped = N - schedules[i].budget
        assert run.report.skipped == {"cond": skipped, "uncond": skipped}
        assert run.report.warnings == []
    assert "forward" not in vars(base.denoiser)


def test_a_twin_may_be_accelerated_inside_another_s_run_and_leave_first() -> None:
    one = tiny.flux()
    two = _twin(one)
    wanted = _accelerated(one, SCHEDULE, 0), _accelerated(two, OTHER, 1)
    inner: list[torch.Tensor] = []

    def between(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        if step == 1:
            inner.append(_accelerated(two, OTHER, 1))
        return kwargs

    with TorchExecutor().attach(one.pipe, SCHEDULE) as run:
        assert torch.equal(one(N, callback_on_step_end=between), wanted[0])
    assert torch.equal(inner[0], wanted[1])
    assert run.report.warnings == []


def test_twins_whose_blocks_are_passed_over_do_not_meet_inside_the_denoiser() -> None:
    base = tiny.flux()
    twins = [_twin(base) for _ in range(2)]

    def serve(i: int) -> list[torch.Tensor]:
        with BlockExecutor().attach(twins[i].pipe, SCHEDULE):
            return [twins[i](N, seed=i) for _ in range(3)]

    wanted = [serve(i)[0] for i in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for made, alone in zip(pool.map(serve, (0, 1)), wanted, strict=True):
            assert all(torch.equal(one, alone) for one in made)


def test_a_context_never_left_goes_with_its_pipeline_though_the_weights_stay() -> None:
    base = tiny.flux()
    before = dict(vars(base.denoiser))
    twin = _twin(base)
    context = TorchExecutor().attach(twin.pipe, SCHEDULE)
    context.__enter__()
    twin.pipe.kept = context  # type: ignore[attr-defined]
    alive = weakref.ref(twin.pipe)
    del twin, context
    gc.collect()
    assert alive() is None
    assert vars(base.denoiser) == before
