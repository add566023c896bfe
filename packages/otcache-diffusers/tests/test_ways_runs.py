"""How runs differ from one another: size, guidance, callbacks, precision, one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from diffusers import DDIMScheduler, StableDiffusionXLImg2ImgPipeline
from diffusers.callbacks import SDXLCFGCutoffCallback
from repeating import repeated

from otcache_core import Schedule
from otcache_core.loop import Loop
from otcache_diffusers.execution.executor import TorchExecutor

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
N = 6
COMPUTED = (0, 1, 4)
REUSE = Schedule(N, COMPUTED)
LINEAR = Schedule(N, COMPUTED, "linear")


@pytest.fixture(params=sorted(tiny.CASES))
def case(request: pytest.FixtureRequest) -> tiny.Case:
    return tiny.CASES[request.param]()


# -- back to back -------------------------------------------------------------------------------


def test_runs_of_every_size_back_to_back_are_those_of_a_fresh_context(case: tiny.Case) -> None:
    sizes: list[dict[str, Any]] = [
        {},
        {"height": 32, "width": 48},
        {"num_images_per_prompt": 2},
        {"height": 32, "width": 32, "num_images_per_prompt": 3},
        {},
    ]
    wanted = [repeated(case, REUSE, **size) for size in sizes]
    with TorchExecutor().attach(case.pipe, REUSE) as run:
        made = [case(N, **size) for size in sizes]
    assert all(torch.equal(a, b) for a, b in zip(made, wanted, strict=True))
    assert run.report.skipped == dict.fromkeys(case.branches, 3 * len(sizes))
    assert run.report.warnings == []


def test_images_of_one_prompt_are_those_made_one_by_one(case: tiny.Case) -> None:
    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    with TorchExecutor().attach(case.pipe, LINEAR):
        both = case(N, num_images_per_prompt=2, generator=[generator(3), generator(4)])
        each = [case(N, generator=generator(seed)) for seed in (3, 4)]
    torch.testing.assert_close(both, torch.cat(each), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("begins", [True, False], ids=["begin_index", "by timestep"])
def test_strength_begins_where_the_image_enters(begins: bool) -> None:
    """Schedulers without begin_index (DDIM) show the first step by its timestep."""
    case = tiny.sdxl(None if begins else DDIMScheduler(clip_sample=False))
    parts = {**case.pipe.components}
    pipe = StableDiffusionXLImg2ImgPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    call = {k: v for k, v in case.call.items() if k not in ("height", "width")}
    call |= {"image": torch.full((1, 3, 16, 16), 0.5), "strength": 0.5}
    img2img = tiny.Case(pipe, call, ("call",))
    wanted = repeated(img2img, REUSE, num_inference_steps=2 * N)
    with TorchExecutor().attach(pipe, REUSE) as run:
        made = img2img(2 * N)
    assert torch.equal(made, wanted)
    assert (run.report.computed, run.report.skipped) == ({"call": 3}, {"call": 3})


# -- interrupts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [0, 2, N - 1])
def test_an_interrupt_leaves_what_the_steps_before_gave(case: tiny.Case, stop: int) -> None:
    def stops(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        pipe._interrupt = step == stop
        return kwargs

    wanted, whole = repeated(case, REUSE, callback_on_step_end=stops), repeated(case, REUSE)
    with TorchExecutor().attach(case.pipe, REUSE) as run:
        assert torch.equal(case(N, callback_on_step_end=stops), wanted)
        assert torch.equal(case(N), whole)
    assert run.report.runs == (2 if stop == N - 1 else 1)
    assert run.report.cached_bytes == 0


# -- guidance that changes within a run -----------------------------------------------------------


@pytest.mark.parametrize(
    ("cutoff", "computed", "skipped"),
    [
        (0, {"call": 1, "call 1x4x16x16": 2}, {"call 1x4x16x16": 3}),
        (1, {"call": 2, "call 1x4x16x16": 3}, {"call 1x4x16x16": 1}),
        (2, {"call": 2, "call 1x4x16x16": 2}, {"call": 1, "call 1x4x16x16": 1}),
        (3, {"call": 2, "call 1x4x16x16": 1}, {"call": 2, "call 1x4x16x16": 1}),
        (4, {"call": 3, "call 1x4x16x16": 1}, {"call": 2}),
    ],
)
def test_guidance_cut_off_by_diffusers_own_callback(
    cutoff: int, computed: dict[str, int], skipped: dict[str, int]
) -> None:
    """After the cut the batch is half as large: a branch of its own, computed where it has no past."""
    case = tiny.sdxl()
    off = {
        "callback_on_step_end": SDXLCFGCutoffCallback(
            cutoff_step_ratio=None, cutoff_step_index=cutoff
        )
    }
    plain = case(N, **off)
    with TorchExecutor().attach(case.pipe, Schedule.full(N)) as run:
        assert torch.equal(case(N, **off), plain)
    assert run.report.warnings == []
    with TorchExecutor().attach(case.pipe, REUSE) as run:
        assert case(N, **off).isfinite().all()
    assert (run.report.computed, run.report.skipped) == (computed, skipped)
    late = "branch 'call 1x4x16x16' appeared or changed its shape during a run: computed."
    assert run.report.warnings == ([late] if cutoff not in (0, 3) else [])


def test_guidance_in_an_interval_gives_each_branch_its_own_outputs() -> None:
    """Check that uncond runs at steps 0, 1, 2 and 5 only, under the names that pipelines give."""
    case = tiny.flux()
    scheduler, net = case.pipe.scheduler, case.pipe.transformer
    text = {"cond": tiny.noise(1, 12, 32), "uncond": -tiny.noise(1, 12, 32)}
    given: dict[tuple[int, str], torch.Tensor] = {}

    def run(num_steps: int) -> None:
        scheduler.set_timesteps(num_steps, mu=0.0)
        x = tiny.noise(1, 64, 4)
        for i, t in enumerate(scheduler.timesteps):
            for name in ("cond", "uncond")[: 2 if i in (0, 1, 2, 5) else 1]:
                with net.cache_context(name):
                    given[i, name] = net(
                        hidden_states=x,
                        timestep=t.expand(1) / 1000,
                        pooled_projections=tiny.noise(1, 32),
                        encoder_hidden_states=text[name],
                        txt_ids=torch.zeros(12, 3),
                        img_ids=torch.zeros(64, 3),
                        return_dict=False,
                    )[0]
            v = given[i, "cond"] + 2 * given.get((i, "uncond"), 0.0)
            x = scheduler.step(v, t, x, return_dict=False)[0]

    with TorchExecutor().attach(case.pipe, REUSE) as handle, torch.no_grad():
        run(N)
    assert handle.report.computed == {"cond": 3, "uncond": 3}
    assert handle.report.skipped == {"cond": 3, "uncond": 1}
    assert given[2, "uncond"] is given[1, "uncond"]
    assert given[2, "cond"] is given[3, "cond"] is given[1, "cond"]
    assert given[5, "cond"] is given[4, "cond"]
    assert handle.report.warnings == [
        "branch 'uncond' appeared or changed its shape during a run: computed."
    ]


# -- branches that a schedule names ---------------------------------------------------------------


@pytest.mark.parametrize(
    "named",
    [
        {"branches": (("cond", COMPUTED), ("none", (0, 4)))},
        {"weights": ((0.5,),) * 3, "branch_weights": (("none", ((0.5,),) * 3),)},
    ],
    ids=["branches", "branch_weights"],
)
def test_a_name_that_no_branch_has_is_said(named: dict[str, Any]) -> None:
    case = tiny.flux(cfg=True)
    forecaster = "fitted" if "weights" in named else "reuse"
    with TorchExecutor().attach(case.pipe, Schedule(N, COMPUTED, forecaster, **named)) as run:
        case(N)
        case(N)
    assert run.report.skipped == {"cond": 6, "uncond": 6}
    assert run.report.warnings == [
        "the schedule plans for 'none', which no call of a run was: it had 'cond', 'uncond'. Name "
        "branches as run.report does."
    ]


def test_names_of_the_branches_there_are_say_nothing() -> None:
    case = tiny.flux(cfg=True)
    with TorchExecutor().attach(
        case.pipe, Schedule(N, COMPUTED, branches=(("uncond", (0, 4)),))
    ) as run:
        case(N)
    assert run.report.skipped == {"cond": 3, "uncond": 4}
    assert run.report.warnings == []


# -- callbacks that edit latents ------------------------------------------------------------------


def _edit(place: str) -> Any:
    def edit(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        if step == 2:
            x = kwargs["latents"]
            kwargs["latents"] = x.mul_(0.5).add_(0.1) if place == "in" else x * 0.5 + 0.1
        return kwargs

    return edit


@pytest.mark.parametrize("place", ["in", "out of"])
def test_a_callback_that_edits_latents_is_obeyed(case: tiny.Case, place: str) -> None:
    call = {"callback_on_step_end": _edit(place)}
    plain, wanted, untouched = case(N, **call), repeated(case, REUSE, **call), repeated(case, REUSE)
    with TorchExecutor().attach(case.pipe, Schedule.full(N)):
        assert torch.equal(case(N, **call), plain)
    with TorchExecutor().attach(case.pipe, REUSE) as run:
        assert torch.equal(case(N, **call), wanted)
    assert not torch.equal(wanted, untouched)
    assert run.report.skipped == dict.fromkeys(case.branches, 3)
    assert run.report.warnings == []


# -- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_takes_the_same_decisions(case: tiny.Case, dtype: torch.dtype) -> None:
    case.pipe.to(dtype)
    case.call = {
        name: value.to(dtype)
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for name, value in case.call.items()
    }
    plain, wanted = case(N), repeated(case, REUSE)
    assert plain.dtype == dtype
    with TorchExecutor().attach(case.pipe, Schedule.full(N)):
        assert torch.equal(case(N), plain)
    with TorchExecutor().attach(case.pipe, REUSE) as reused:
        assert torch.equal(case(N), wanted)
    with TorchExecutor().attach(case.pipe, LINEAR) as run:
        made = case(N)
    assert made.dtype == dtype
    assert made.isfinite().all()
    for report in (reused.report, run.report):
        assert report.skipped == dict.fromkeys(case.branches, 3)
        assert report.warnings == []


def test_inference_mode_gives_what_no_grad_gives(case: tiny.Case) -> None:
    with TorchExecutor().attach(case.pipe, LINEAR):
        wanted = case(N)
        with torch.inference_mode():
            assert torch.equal(case(N), wanted)


@pytest.mark.parametrize("schedule", [REUSE, LINEAR], ids=["reuse", "linear"])
def test_a_sampler_may_write_into_outputs_made_in_inference_mode(schedule: Schedule) -> None:
    """There torch counts no writes, so they could not be noticed."""

    def loop(in_place: bool) -> Loop:
        net, grid = tiny.Velocity(), tiny.euler_grid(N)

        def sample(num_steps: int) -> torch.Tensor:
            x = tiny.noise(1, 8)
            for i in range(num_steps):
                v = net(x, grid[i])
                h = grid[i + 1] - grid[i]
                x = x + (v.mul_(h) if in_place else v * h)
            return x

        return Loop(sample, net, grid=tiny.euler_grid)

    made = []
    for in_place in (False, True):
        target = loop(in_place)
        with TorchExecutor().attach(target, schedule) as run, torch.inference_mode():
            made.append(target(N))
        assert run.report.skipped == {"call": 3}
    assert torch.equal(*made)
