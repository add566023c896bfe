"""Calibrate, plan and accelerate Wan 2.2: two transformers, one clock, one budget over both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

import otcache
from otcache_core import Schedule
from otcache_diffusers.testing import Calls

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
N = 8
#: Steps of the first transformer; the second one has the rest.
FIRST, BOUNDARY = 5, 0.7
SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_frames": 5}
RECIPE = otcache.Recipe(anchor_trials=2, climb_trials=1, cost_samples=1, ladder=(3, 5))


class Pipe(WanPipeline):
    """Wan whose texts are encoded as noise of their own."""

    def encode_prompt(self, prompt: Any, negative_prompt: Any = None, **given: Any) -> Any:
        texts = [prompt] if isinstance(prompt, str) else prompt
        return _embed(texts), _embed([""] * len(texts))


def _embed(texts: list[str]) -> torch.Tensor:
    seeds = [torch.Generator().manual_seed(sum(map(ord, text))) for text in texts]
    return torch.cat([torch.randn(1, 6, 32, generator=seed) for seed in seeds])


def _expert(seed: int) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=32,
    ).eval()


@pytest.fixture(scope="module")
def pipe() -> Pipe:
    made = Pipe(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        transformer=_expert(0),
        transformer_2=_expert(1),
        boundary_ratio=BOUNDARY,
    )
    made.set_progress_bar_config(disable=True)
    return made


def _calls(pipe: Pipe) -> Calls:
    return Calls(
        [m.condition_embedder.text_embedder for m in (pipe.transformer, pipe.transformer_2)]
    )


def _sample(pipe: Pipe, **scales: float) -> torch.Tensor:
    with torch.no_grad():
        made: torch.Tensor = pipe(
            prompt="z",
            num_inference_steps=N,
            output_type="latent",
            generator=torch.Generator().manual_seed(3),
            **SIZE,
            **scales,
        )[0]
    return made


@pytest.mark.parametrize("scales", [(4.0, 4.0), (4.0, 2.0)], ids=["one scale", "two scales"])
def test_a_plan_counts_the_steps_of_both(pipe: Pipe, scales: tuple[float, float]) -> None:
    first = {"guidance_scale": scales[0], "guidance_scale_2": scales[1]}
    calibration = otcache.calibrate(
        pipe, ("a", "b", "c", "d"), N, recipe=RECIPE, progress=False, **SIZE, **first
    )
    policy = otcache.plan(calibration)
    assert {name for rung in calibration.ladder for name, _ in rung.schedule.branch_weights} == {
        "cond",
        "uncond",
    }
    calls = _calls(pipe)
    plain = _sample(pipe, **first)
    assert calls.each == [2 * FIRST, 2 * (N - FIRST)]
    for budget in (3, 5):
        calls.each = [0, 0]
        with otcache.accelerate(pipe, policy, budget) as run:
            assert _sample(pipe, **first).isfinite().all()
        planned = run.report.planned
        assert len(planned) == budget
        assert calls.each == [
            2 * sum(k < FIRST for k in planned),
            2 * sum(k >= FIRST for k in planned),
        ]
        assert run.report.computed == {"cond": budget, "uncond": budget}
        assert run.report.skipped == {"cond": N - budget, "uncond": N - budget}
        assert run.report.warnings == []
    calls.remove()
    assert torch.equal(_sample(pipe, **first), plain)


@pytest.mark.parametrize("computed", [(0, 1, 2), (0, 2, 6), (0, 3, 5, 6), (0, 5)])
def test_calls_of_each_are_the_schedule_s(pipe: Pipe, computed: tuple[int, ...]) -> None:
    calls = _calls(pipe)
    with otcache.accelerate(pipe, Schedule(N, computed)) as run:
        _sample(pipe)
    calls.remove()
    assert calls.each == [
        2 * sum(k < FIRST for k in computed),
        2 * sum(k >= FIRST for k in computed),
    ]
    assert run.report.warnings == []
