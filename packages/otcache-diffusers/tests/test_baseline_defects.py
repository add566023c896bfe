"""Defects of baselines that no other test guards against; docs/baseline-defects.md lists them all."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
from diffusers.models import WanTransformer3DModel
from repeating import repeated
from torch.utils._python_dispatch import TorchDispatchMode

from otcache_core import Schedule
from otcache_core.loop import Loop
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.testing import Calls

N = 6
REUSE = Schedule(N, (0, 1, 4))


# -- where state lives ----------------------------------------------------------------------------


def test_nothing_is_put_on_any_class() -> None:
    """Whoever patches a class changes every pipeline of the process."""
    case = tiny.flux(cfg=True)
    parts = (case.pipe, case.denoiser, case.pipe.scheduler)
    classes = {cls for part in parts for cls in type(part).__mro__ if cls is not object}
    before = {cls: {name: id(value) for name, value in vars(cls).items()} for cls in classes}
    seen: list[bool] = []

    def look(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        now = {cls: {name: id(value) for name, value in vars(cls).items()} for cls in classes}
        seen.append(now == before)
        return kwargs

    with TorchExecutor().attach(case.pipe, REUSE):
        case(N, callback_on_step_end=look)
    assert seen == [True] * N


# -- step identity --------------------------------------------------------------------------------


def test_timesteps_that_collide_in_bfloat16_are_steps_of_their_own() -> None:
    """Eight bits cannot distinguish shifted times: who keys on what the denoiser gets, mixes steps."""
    steps = 60
    case = tiny.flux(scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0))
    case.pipe.to(torch.bfloat16)
    case.call = {
        name: value.bfloat16() if isinstance(value, torch.Tensor) else value
        for name, value in case.call.items()
    }
    times: list[float] = []
    handle = case.denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: times.append(float(kwargs["timestep"][0])), with_kwargs=True
    )
    case(steps)
    handle.remove()
    assert len(set(times)) < steps == len(times)
    schedule = Schedule(steps, tuple(range(0, steps, 2)))
    wanted = repeated(case, schedule)
    with TorchExecutor().attach(case.pipe, schedule) as run:
        assert torch.equal(case(steps), wanted)
    assert run.report.skipped == {"cond": steps // 2}
    assert run.report.warnings == []


# -- branches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [3, 4])
def test_more_than_two_unnamed_branches_keep_apart(width: int) -> None:
    """Guidance by text, image and both, perturbed attention: three calls per step and more."""
    net, grid = tiny.Velocity(), tiny.euler_grid(N)
    given: dict[tuple[int, int], torch.Tensor] = {}

    def sample(num_steps: int) -> torch.Tensor:
        x = tiny.noise(1, 8)
        for i in range(num_steps):
            for branch in range(width):
                given[i, branch] = net(x + branch, grid[i])
            v = sum(given[i, branch] * (branch + 1) for branch in range(width))
            x = x + (grid[i + 1] - grid[i]) * v
        return x

    loop = Loop(sample, net, grid=tiny.euler_grid, calls_per_step=width)
    with TorchExecutor().attach(loop, REUSE) as run, torch.no_grad():
        loop(N)
    names = ["call", *(f"call#{n}" for n in range(2, width + 1))]
    assert run.report.computed == run.report.skipped == dict.fromkeys(names, 3)
    for step, source in {2: 1, 3: 1, 5: 4}.items():
        for branch in range(width):
            assert given[step, branch] is given[source, branch]
    assert run.report.warnings == []


def _wan(boundary: float) -> tiny.Case:
    """Wan 2.2: one transformer for the noisy part of the run, another for the rest."""

    def transformer(seed: int) -> WanTransformer3DModel:
        torch.manual_seed(seed)
        return WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=256,
            ffn_dim=32,
            num_layers=1,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        )

    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    pipe = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=transformer(0),
        transformer_2=transformer(1),
        boundary_ratio=boundary,
    )
    pipe.set_progress_bar_config(disable=True)
    call = {
        "prompt_embeds": tiny.noise(1, 16, 32),
        "negative_prompt_embeds": -tiny.noise(1, 16, 32),
        "guidance_scale": 6.0,
        "height": 16,
        "width": 16,
        "num_frames": 5,
    }
    return tiny.Case(pipe, call, ("cond", "uncond"))


@pytest.mark.parametrize(
    ("computed", "first", "second"), [((0, 1, 3, 4), 2, 2), ((0, 1, 4), 2, 1), ((0, 1), 2, 0)]
)
def test_two_transformers_run_on_one_clock_and_one_budget(
    computed: tuple[int, ...], first: int, second: int
) -> None:
    """The second one takes over at step 3; ``first`` and ``second``: computed steps of either."""
    case = _wan(boundary=0.6)
    plain = case(N)
    with TorchExecutor().attach(case.pipe, Schedule.full(N)) as run:
        assert torch.equal(case(N), plain)
    assert run.report.computed == {"cond": N, "uncond": N}
    experts = (case.pipe.transformer, case.pipe.transformer_2)
    before = [sorted(vars(expert)) for expert in experts]
    calls = Calls([expert.condition_embedder.time_embedder for expert in experts])
    with TorchExecutor().attach(case.pipe, Schedule(N, computed)) as run:
        assert case(N).isfinite().all()
    calls.remove()
    assert calls.each == [2 * first, 2 * second]
    assert run.report.computed == dict.fromkeys(("cond", "uncond"), len(computed))
    assert run.report.skipped == dict.fromkeys(("cond", "uncond"), N - len(computed))
    assert run.report.warnings == []
    assert [sorted(vars(expert)) for expert in experts] == before
    assert torch.equal(case(N), plain)


# -- cost -----------------------------------------------------------------------------------------


class _Syncs(TorchDispatchMode):
    """Count what synchronizes with the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        self.count += any(word in name for word in ("_local_scalar_dense", "nonzero", "is_nonzero"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bare", [False, True], ids=["loop", "bare module"])
def test_a_foreign_loop_is_followed_without_asking_the_device(bare: bool) -> None:
    """Not even where the time is a tensor on the device."""
    net = tiny.Velocity()
    net.forward = lambda x, t: net.layers(torch.cat([x, t.reshape(1, 1)], dim=1))  # type: ignore
    grid = torch.tensor(tiny.euler_grid(N))

    def sample(num_steps: int) -> torch.Tensor:
        x = tiny.noise(1, 8)
        for i in range(num_steps):
            x = x + (grid[i + 1] - grid[i]) * net(x, grid[i])
        return x

    target = net if bare else Loop(sample, net, grid=tiny.euler_grid)
    run = sample if bare else target
    with TorchExecutor().attach(target, REUSE) as handle, torch.no_grad(), _Syncs() as syncs:
        run(N)
    assert handle.report.skipped == {"call": 3}
    assert syncs.count == 0
