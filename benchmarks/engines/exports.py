"""Pipelines of optimum, exported here: otcache's own demo, and a Stable Diffusion of random weights."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from otcache_diffusers import demo

#: Where each engine's pipelines are, what their classes begin with, and options of ``from_pretrained``.
ENGINES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "onnxruntime": ("optimum.onnxruntime", "ORT", {}),
    "openvino": ("optimum.intel", "OV", {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}),
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Case:
    """A row of docs/engines.md.

    Args:
        kind: the pipeline's class without what the engine's classes begin with.
        source: the folder it is exported from.
        steps: N.
        call: further arguments of its call.
        prediction: of the scheduler, if it is not the folder's.
        binding: use ONNX Runtime's IO binding; other engines have no such case.
        note: what is special.
    """

    kind: str
    source: str
    steps: int
    call: dict[str, Any] = field(default_factory=dict)
    prediction: str = ""
    binding: bool = False
    note: str = ""


CASES = (
    Case("FluxPipeline", "demo", 15, demo.CALL, note="the demo, trained; two calls a step"),
    Case("StableDiffusionPipeline", "random", 15, note="epsilon"),
    Case("StableDiffusionPipeline", "random", 15, prediction="v_prediction", note="velocities"),
    Case(
        *("StableDiffusionPipeline", "random", 15),
        prediction="v_prediction",
        binding=True,
        note="velocities, IO binding",
    ),
)


def exported(engine: str, source: Path, folder: Path, case: Case) -> Any:
    """Load a pipeline of an engine, from what it exported before if there is that.

    Args:
        engine: of :data:`ENGINES`.
        source: a folder that ``save_pretrained`` of diffusers wrote.
        folder: for the exported pipeline.
        case: whose pipeline.
    """
    library, prefix, options = ENGINES[engine]
    kind = getattr(importlib.import_module(library), prefix + case.kind)
    if not folder.is_dir():
        kind.from_pretrained(str(source), export=True, **options).save_pretrained(str(folder))
    pipe = kind.from_pretrained(str(folder), export=False, **options)
    if case.prediction:
        pipe.scheduler = DDIMScheduler(prediction_type=case.prediction, **SCHEDULER)
    if case.binding:
        pipe.use_io_binding = True
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sources(folder: Path) -> dict[str, Path]:
    """Save the pipelines that are exported, as the installed libraries save them; return their folders."""
    made = {name: folder / name for name in ("demo", "random")}
    if not made["demo"].is_dir():
        demo_pipeline().save_pretrained(str(made["demo"]))
    if not made["random"].is_dir():
        random_pipeline().save_pretrained(str(made["random"]))
    return made


def demo_pipeline() -> FluxPipeline:
    """Return the demo; its folder is of a later transformers, which names weights and files otherwise."""
    folder = demo.folder()
    known = {name: str(folder / name) for name in ("transformer", "vae", "scheduler")}
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(known["scheduler"]),
        vae=AutoencoderKL.from_pretrained(known["vae"], torch_dtype=torch.float32),
        text_encoder=_encoder(CLIPTextModel, CLIPTextConfig, folder / "text_encoder"),
        tokenizer=CLIPTokenizerFast.from_pretrained(str(folder / "tokenizer")),
        text_encoder_2=_encoder(T5EncoderModel, T5Config, folder / "text_encoder_2"),
        tokenizer_2=T5TokenizerFast.from_pretrained(
            str(folder / "tokenizer_2"), extra_special_tokens={}
        ),
        transformer=FluxTransformer2DModel.from_pretrained(
            known["transformer"], torch_dtype=torch.float32
        ),
    )


def _encoder(kind: Any, config: Any, folder: Path) -> Any:
    """Return a text encoder with the weights of a folder, whether or not their names have a prefix."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    encoder = kind(config.from_dict(settings | {"dtype": None}))
    weights = {
        name.removeprefix("text_model."): w
        for name, w in load_file(folder / "model.safetensors").items()
    }
    own = encoder.state_dict()
    found = {name: weights.get(name.removeprefix("text_model.")) for name in own}
    missing = [name for name, weight in found.items() if weight is None]
    tied = {"encoder.embed_tokens.weight", "shared.weight"}
    if set(missing) - tied or len(missing) > 1:
        raise SystemExit(f"{folder}: no weights for {', '.join(missing)}")
    encoder.load_state_dict({n: w.float() for n, w in found.items() if w is not None}, strict=False)
    return encoder.eval()


def random_pipeline() -> StableDiffusionPipeline:
    """Return a Stable Diffusion of random weights, with the demo's text encoder."""
    pipe = demo_pipeline()
    torch.manual_seed(0)
    blocks = {"block_out_channels": (32, 64), "layers_per_block": 2, "norm_num_groups": 8}
    unet = UNet2DConditionModel(
        sample_size=16,
        cross_attention_dim=pipe.text_encoder.config.hidden_size,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **blocks,
    )
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        sample_size=32,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
