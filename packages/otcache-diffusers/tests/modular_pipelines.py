"""Modular pipelines from the components of tiny ones, and guiders for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import tiny
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    LayerSkipConfig,
    ModularPipelineBlocks,
    WanPipeline,
    WanTransformer3DModel,
    guiders,
)
from diffusers.modular_pipelines import InputParam, OutputParam

N = 6


def wan() -> tiny.Case:
    """Make the one with few numbers and two blocks, in which guiders can skip layers."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=16,
        freq_dim=16,
        ffn_dim=16,
        num_layers=2,
        cross_attn_norm=True,
        rope_max_seq_len=32,
    )
    pipe = WanPipeline(None, None, vae, FlowMatchEulerDiscreteScheduler(shift=3.0), transformer)
    call = {
        "prompt_embeds": tiny.noise(1, 8, 16),
        "negative_prompt_embeds": -tiny.noise(1, 8, 16),
        "guidance_scale": 4.0,
        "height": 32,
        "width": 32,
        "num_frames": 1,
    }
    pipe.set_progress_bar_config(disable=True)
    return tiny.Case(pipe, call, ("cond", "uncond"))


#: By name: class of the modular pipeline, and what makes the standard one.
MODULAR: dict[str, tuple[str, Callable[[], tiny.Case]]] = {
    "flux": ("FluxModularPipeline", tiny.flux),
    "qwen": ("QwenImageModularPipeline", tiny.qwen),
    "sdxl": ("StableDiffusionXLModularPipeline", tiny.sdxl),
    "wan": ("WanModularPipeline", wan),
}


class Prompts(ModularPipelineBlocks):
    """Embed prompts without a text encoder: each text has noise of its own, which shows in images."""

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("prompt"), InputParam("negative_prompt", default="")]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        kind = {"kwargs_type": "denoiser_input_fields"}
        names = ("prompt_embeds", "negative_prompt_embeds")
        return [OutputParam(f"{name}{tail}", **kind) for name in names for tail in ("", "_mask")]

    def __call__(self, components: Any, state: Any) -> Any:
        block = self.get_block_state(state)
        prompts = [block.prompt] if isinstance(block.prompt, str) else block.prompt
        negative = [block.negative_prompt] * len(prompts)
        for name, texts in (("prompt_embeds", prompts), ("negative_prompt_embeds", negative)):
            embeds = [5 * tiny.noise(1, 8, 16, seed=sum(map(ord, text))) for text in texts]
            setattr(block, name, torch.cat(embeds))
            setattr(block, f"{name}_mask", torch.ones(len(texts), 8, dtype=torch.long))
        self.set_block_state(state, block)
        return components, state


@dataclass
class Modular:
    """A modular pipeline, the arguments of its call, and the standard pipeline of its components."""

    pipe: Any
    call: dict[str, Any]
    standard: tiny.Case

    @property
    def denoiser(self) -> torch.nn.Module:
        return self.standard.denoiser

    def __call__(self, **more: Any) -> np.ndarray:
        made = self.pipe(**self.arguments(), **more, output=["images", "videos"])
        return np.asarray(made["videos"] if made["images"] is None else made["images"])

    def arguments(self) -> dict[str, Any]:
        noise = torch.Generator().manual_seed(0)
        return {**self.call, "num_inference_steps": N, "generator": noise, "output_type": "np"}


def modular(name: str, *, text: bool = False, guider: Any = None) -> Modular:
    """Make a modular pipeline; with ``text`` (Qwen and Wan) it takes prompts, else embeddings."""
    kind, standard = getattr(diffusers, MODULAR[name][0]), MODULAR[name][1]()
    blocks = kind()._blocks
    blocks.sub_blocks.pop("text_encoder")
    if text:
        blocks.sub_blocks.insert("text_encoder", Prompts(), 0)
    pipe = kind(blocks=blocks)
    had = standard.pipe.components
    pipe.update_components(**{n: had[n] for n in pipe.components if had.get(n) is not None})
    scale = standard.call.get("true_cfg_scale", standard.call.get("guidance_scale"))
    if hasattr(pipe, "guider"):
        own = pipe.guider.new(guidance_scale=scale, enabled=True)
        pipe.update_components(guider=own if guider is None else guider)
    known = {given.name for given in blocks.inputs}
    call = {n: value for n, value in standard.call.items() if n in known}
    quiet(pipe._blocks)
    if text:
        shape = {n: v for n, v in call.items() if n in ("height", "width", "num_frames")}
        call = {"prompt": "a", "negative_prompt": "b", **shape}
    return Modular(pipe, call, standard)


def quiet(blocks: Any) -> None:
    """Show no bars."""
    if hasattr(blocks, "set_progress_bar_config"):
        blocks.set_progress_bar_config(disable=True)
    for block in (blocks.sub_blocks or {}).values():
        quiet(block)


def _layers(**how: Any) -> LayerSkipConfig:
    return LayerSkipConfig(indices=[1], fqn="blocks", **how)


#: Guiders by name: those with a part of the run, with a third branch, and those that are not linear.
GUIDERS: dict[str, Callable[[], Any]] = {
    "cfg": lambda: guiders.ClassifierFreeGuidance(4.0),
    "begins late": lambda: guiders.ClassifierFreeGuidance(4.0, start=0.4),
    "ends early": lambda: guiders.ClassifierFreeGuidance(4.0, stop=0.6),
    "skips layers": lambda: guiders.SkipLayerGuidance(
        4.0, 2.0, 0.2, 0.7, skip_layer_config=_layers(skip_attention=True, skip_ff=True)
    ),
    "auto": lambda: guiders.AutoGuidance(4.0, auto_guidance_config=_layers(dropout=1.0)),
    "adaptive projected": lambda: guiders.AdaptiveProjectedGuidance(
        4.0, adaptive_projected_guidance_momentum=-0.5, adaptive_projected_guidance_rescale=5.0
    ),
    "zero star": lambda: guiders.ClassifierFreeZeroStarGuidance(4.0),
    "tangential": lambda: guiders.TangentialClassifierFreeGuidance(4.0),
    "magnitude aware": lambda: guiders.MagnitudeAwareGuidance(4.0),
    "frequency decoupled": lambda: guiders.FrequencyDecoupledGuidance([6.0, 3.0]),
}
