"""Tiny CLIP and ImageReward folders, made in memory: real layouts, no real weights."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
import torch

from otcache_diffusers.recording.sampler import quiet_loading

ROOT = Path(__file__).parents[3]
SIDE = 32
WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a red blue circle small cat on background the letter k in ##s "
    "large green"
)
MED = {
    "hidden_act": "gelu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 40,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 22,
}


# -- CLIP ------------------------------------------------------------------------------------------


def clip_folder(folder: Path) -> Path:
    """Return a CLIP model of width 32 with weights by formula and the demo model's tokenizer.

    Last biases of 0.2 and projections without a negative weight keep cosines above
    0, where they are not cut off.
    """
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    from otcache_diffusers import demo

    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2, "projection_dim": 16}
    tokenizer = CLIPTokenizer.from_pretrained(demo.folder() / "tokenizer", local_files_only=True)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**tower, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 24}
    vision = {**tower, "image_size": SIDE, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim:
                tensor.copy_(formula(name, tuple(tensor.shape)))
        for projection in (model.visual_projection, model.text_projection):
            projection.weight.abs_()
        for norm in (model.vision_model.post_layernorm, model.text_model.final_layer_norm):
            norm.bias.fill_(0.2)
    with quiet_loading():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# -- ImageReward -----------------------------------------------------------------------------------


def formula(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights anyone can make again: the sine of squares times a number made of the name."""
    k = 0.7 + zlib.crc32(name.encode()) % 1000 / 1000
    waves = np.sin(k * np.arange(1.0, np.prod(shape) + 1) ** 2).reshape(shape)
    if "norm" in name.lower() and name.endswith("weight"):
        values = 1 + 0.1 * waves
    elif len(shape) > 1:
        values = waves * 1.5 / np.sqrt(shape[-1] if len(shape) == 2 else np.prod(shape[1:]))
    else:
        values = 0.1 * waves
    return torch.from_numpy(values.astype(np.float32))


def reward_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' checkpoint, width 64 and two layers in both towers."""
    vision, text, head = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."
    found: dict[str, tuple[int, ...]] = {
        f"{vision}cls_token": (1, 1, 64),
        f"{vision}pos_embed": (1, 5, 64),
        f"{vision}patch_embed.proj.weight": (64, 3, 16, 16),
        f"{vision}patch_embed.proj.bias": (64,),
        f"{text}embeddings.word_embeddings.weight": (22, 64),
        f"{text}embeddings.position_embeddings.weight": (40, 64),
    }
    norms = [f"{vision}norm", f"{text}embeddings.LayerNorm"]
    linears = {}
    for i in range(2):
        block, layer = f"{vision}blocks.{i}.", f"{text}encoder.layer.{i}."
        norms += [f"{block}norm1", f"{block}norm2", f"{layer}output.LayerNorm"]
        linears |= {f"{block}attn.qkv": (192, 64), f"{block}attn.proj": (64, 64)}
        linears |= {f"{block}mlp.fc1": (256, 64), f"{block}mlp.fc2": (64, 256)}
        linears |= {f"{layer}intermediate.dense": (128, 64), f"{layer}output.dense": (64, 128)}
        for attention in (f"{layer}attention.", f"{layer}crossattention."):
            parts = ("self.query", "self.key", "self.value", "output.dense")
            linears |= {f"{attention}{part}": (64, 64) for part in parts}
            norms.append(f"{attention}output.LayerNorm")
    widths = (64, 1024, 128, 64, 16, 1)
    for i, place in enumerate((0, 2, 4, 6, 7)):
        linears[f"{head}{place}"] = (widths[i + 1], widths[i])
    for name, shape in linears.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found | {f"{name}.{kind}": (64,) for name in norms for kind in ("weight", "bias")}


def reward_state() -> dict[str, torch.Tensor]:
    """Return the checkpoint, with what a real one holds besides."""
    state = {name: formula(name, shape) for name, shape in reward_shapes().items()}
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    state["blip.vision_proj.weight"] = torch.zeros(8, 64)
    return state


def reward_folder(folder: Path) -> Path:
    """Return that checkpoint as tools/convert_image_reward.py writes it."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import convert_image_reward
    finally:
        sys.path.remove(str(ROOT / "tools"))
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS.split()) + "\n")
    with quiet_loading():
        convert_image_reward.convert(reward_state(), MED, vocabulary, folder)
    return folder
