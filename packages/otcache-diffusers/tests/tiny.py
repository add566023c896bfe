"""Real diffusers pipelines from tiny random components, and a hand-written Euler loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass
class Case:
    """A pipeline, the arguments of its call, and the branches it should show, in order."""

    pipe: Any
    call: dict[str, Any]
    branches: tuple[str, ...]

    @property
    def denoiser(self) -> nn.Module:
        return self.pipe.transformer if hasattr(self.pipe, "transformer") else self.pipe.unet

    def __call__(self, steps: int = 6, seed: int = 0, **more: Any) -> torch.Tensor:
        arguments = {
            **self.call,
            "num_inference_steps": steps,
            "generator": torch.Generator().manual_seed(seed),
            "output_type": "latent",
            **more,
        }
        with torch.no_grad():
            return self.pipe(**arguments)[0]


def _vae(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=1,
        sample_size=32,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


def flux(cfg: bool = False, scheduler: Any = None) -> Case:
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
    )
    pipe = FluxPipeline(
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
        vae=_vae(1),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    call = {
        "prompt_embeds": noise(1, 12, 32),
        "pooled_prompt_embeds": noise(1, 32),
        "height": 16,
        "width": 16,
    }
    if cfg:
        call |= {
            "negative_prompt_embeds": -noise(1, 12, 32),
            "negative_pooled_prompt_embeds": -noise(1, 32),
            "true_cfg_scale": 3.0,
        }
    return _quiet(Case(pipe, call, ("cond", "uncond") if cfg else ("cond",)))


def qwen() -> Case:
    torch.manual_seed(0)
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    pipe = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    call = {
        "prompt_embeds": noise(1, 8, 16),
        "prompt_embeds_mask": torch.ones(1, 8, dtype=torch.long),
        "negative_prompt_embeds": -noise(1, 8, 16),
        "negative_prompt_embeds_mask": torch.ones(1, 8, dtype=torch.long),
        "true_cfg_scale": 3.0,
        "height": 32,
        "width": 32,
    }
    return _quiet(Case(pipe, call, ("cond", "uncond")))


def sdxl(scheduler: Any = None) -> Case:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=32,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
        norm_num_groups=1,
    )
    plain = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    pipe = StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=scheduler or plain,
    )
    call = {
        "prompt_embeds": noise(1, 12, 64),
        "pooled_prompt_embeds": noise(1, 32),
        "negative_prompt_embeds": -noise(1, 12, 64),
        "negative_pooled_prompt_embeds": -noise(1, 32),
        "guidance_scale": 5.0,
        "height": 16,
        "width": 16,
    }
    return _quiet(Case(pipe, call, ("call",)))


CASES: dict[str, Callable[[], Case]] = {
    "flux": flux,
    "flux-cfg": lambda: flux(cfg=True),
    "qwen": qwen,
    "sdxl": sdxl,
}


class Velocity(nn.Module):
    """A smooth velocity field v(x, t)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(width + 1, 16), nn.Tanh(), nn.Linear(16, width))

    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
        time = x.new_full((len(x), 1), float(t))
        return self.layers(torch.cat([x, time], dim=1))


def euler_grid(num_steps: int) -> list[float]:
    return [(1 - i / num_steps) ** 1.5 for i in range(num_steps + 1)]


def euler_sampler(net: nn.Module, width: int = 8) -> Callable[..., torch.Tensor]:
    """x_{i+1} = x_i + (s_{i+1} - s_i) v(x_i, s_i)."""

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> torch.Tensor:
        x = torch.stack([noise(width, seed=seed) for seed in seeds]).to(
            next(net.parameters()).dtype
        )
        s = euler_grid(num_steps)
        with torch.no_grad():
            for i in range(num_steps):
                x = x + (s[i + 1] - s[i]) * net(x, s[i])
        return x

    return sample


def _quiet(case: Case) -> Case:
    case.pipe.set_progress_bar_config(disable=True)
    return case


def with_prompts(case: Case) -> Case:
    """Let a Flux pipeline take prompts as text: each text has embeddings of its own."""

    def encode_prompt(prompt: Any = None, prompt_embeds: Any = None, **given: Any) -> Any:
        texts = [prompt] if isinstance(prompt, str) else prompt
        embeds = torch.cat([noise(1, 12, 32, seed=sum(map(ord, text))) for text in texts])
        return embeds, embeds[:, 0], torch.zeros(12, 3)

    case.pipe.encode_prompt = encode_prompt
    case.call = {"height": 16, "width": 16, "prompt": "a"}
    if "uncond" in case.branches:
        case.call |= {"negative_prompt": "b", "true_cfg_scale": 3.0}
    return case


def counted(module: nn.Module) -> nn.Module:
    """Count how often a module's own work runs, inside it where nothing of ours reaches."""
    counter = _Counter()
    leaf = next(m for m in module.modules() if isinstance(m, nn.Linear))
    leaf.register_forward_pre_hook(counter)
    module.__dict__["_counter_of_test"] = counter
    return module


def calls_of(module: nn.Module) -> int:
    return int(module.__dict__["_counter_of_test"].calls)


class _Counter:
    calls = 0

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.calls += 1
