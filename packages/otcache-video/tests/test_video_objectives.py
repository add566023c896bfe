"""The evaluator judges schedules of a video pipeline by its videos."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

from otcache_core import Schedule
from otcache_core.contracts import SampleRequest
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.metrics.lpips import Lpips
from otcache_diffusers.recording.probe import TorchProbe

N, SKIPPING = 4, Schedule(4, (0, 2))
REQUEST = SampleRequest(
    prompts=("a", "bb"),
    seeds=(1, 2),
    num_steps=N,
    call={"height": 32, "width": 32, "num_frames": 5, "guidance_scale": 4.0},
    batch_size=2,
)


@pytest.fixture(scope="module")
def pipe() -> Any:
    """Wan in its smallest form, with an embedding of its own for each length of prompt."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=32,
    )
    vae = AutoencoderKLWan(base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    made = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )

    def encode_prompt(prompt: Any, **given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        texts = [prompt] if isinstance(prompt, str) else prompt
        seeds = [torch.Generator().manual_seed(len(text)) for text in texts]
        embeddings = torch.stack([torch.randn(8, 32, generator=seed) for seed in seeds])
        return embeddings, torch.zeros_like(embeddings)

    made.encode_prompt = encode_prompt
    made.set_progress_bar_config(disable=True)
    return made


def test_objectives_of_videos_are_pooled_or_averaged_over_frames(pipe: Any) -> None:
    probe = TorchProbe()
    full = probe.sample(pipe, REQUEST)
    assert full.shape == (2, 5, 32, 32, 3)
    with TorchExecutor().attach(pipe, SKIPPING):
        made = probe.sample(pipe, REQUEST)
    evaluator = probe.evaluator(pipe, REQUEST, [*probe.record(pipe, REQUEST)])
    schedules = [Schedule.full(N), SKIPPING]
    rmse, lpips = (
        evaluator.evaluate(schedules, objective=name).errors for name in ("rmse", "lpips")
    )
    pooled = np.sqrt(np.mean((made - full) ** 2, axis=(1, 2, 3, 4)))
    averaged = [Lpips()(x, y).mean() for x, y in zip(made, full, strict=True)]
    np.testing.assert_allclose(rmse, [[0, 0], pooled], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(lpips, [[0, 0], averaged], rtol=1e-2, atol=1e-6)
