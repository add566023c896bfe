"""Convert ImageReward's checkpoint to what the metric `image-reward` reads.

    python tools/convert_image_reward.py --checkpoint ImageReward.pt --config med_config.json \
        --vocabulary vocab.txt --out FOLDER

You need three files: `ImageReward.pt` and `med_config.json` of THUDM/ImageReward on the
Hugging Face hub, `vocab.txt` of bert-base-uncased. The checkpoint is read as tensors only. Written are
BLIP's vision and text towers as transformers saves them, the tokenizer, and the reward's five linear
layers, all in safetensors.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    BertTokenizer,
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
)

State = dict[str, Tensor]
VISION = "blip.visual_encoder."
TEXT = "blip.text_encoder."
HEAD = "mlp.layers."
#: Places of the linear layers among the head's dropouts.
LINEARS = (0, 2, 4, 6, 7)
#: The authors' vision names and transformers' ones.
RENAMED = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"^norm\.", "post_layernorm."),
)
HEAD_WIDTH = 64
#: Settings of the text encoder that are taken from med_config.json.
TEXT_SETTINGS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "max_position_embeddings", "layer_norm_eps", "hidden_act"),
)


def part(state: State, prefix: str) -> State:
    """Return the tensors under a prefix, without it; counters of positions omitted."""
    found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return {k: v for k, v in found.items() if not k.endswith("position_ids")}


def vision_tower(state: State) -> BlipVisionModel:
    """Return the vision transformer; its sizes are read off the tensors, with heads 64 wide."""
    tensors = {}
    for name, tensor in part(state, VISION).items():
        for old, new in RENAMED:
            name = re.sub(old, new, name)
        tensors[name] = tensor
    kernel = tensors["embeddings.patch_embedding.weight"]
    width, patch = kernel.shape[0], kernel.shape[-1]
    patches = tensors["embeddings.position_embedding"].shape[1] - 1
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=tensors["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=1 + max(int(k.split(".")[2]) for k in tensors if ".layers." in k),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=round(patches**0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    model = BlipVisionModel(config)
    model.load_state_dict(tensors)
    return model


def text_tower(state: State, config: dict[str, object]) -> BlipTextModel:
    """Return the text encoder with cross attention; tensors keep their names."""
    tensors = part(state, TEXT)
    seen = tensors["encoder.layer.0.crossattention.self.key.weight"].shape[1]
    chosen = {key: config[key] for key in TEXT_SETTINGS}
    special = {"bos_token_id": None, "eos_token_id": None, "sep_token_id": None}
    model = BlipTextModel(
        BlipTextConfig(**chosen, **special, encoder_hidden_size=seen), add_pooling_layer=False
    )
    model.load_state_dict(tensors)
    return model


def head(state: State) -> State:
    """Return the five linear layers, numbered from 0."""
    return {
        f"{i}.{kind}": state[f"{HEAD}{layer}.{kind}"].contiguous()
        for i, layer in enumerate(LINEARS)
        for kind in ("weight", "bias")
    }


def tokenizer(vocabulary: Path) -> BertTokenizer:
    """Return BERT's tokenizer with BLIP's two more tokens."""
    words = BertTokenizer(str(vocabulary), do_lower_case=True)
    words.add_special_tokens({"bos_token": "[DEC]"})
    words.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    return words


def convert(state: State, config: dict[str, object], vocabulary: Path, out: Path) -> None:
    """Write the folder."""
    vision_tower(state).save_pretrained(out / "vision")
    text_tower(state, config).save_pretrained(out / "text")
    tokenizer(vocabulary).save_pretrained(out / "tokenizer")
    save_file(head(state), out / "head.safetensors")


def main() -> None:
    """Read the three files and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, required=True, help="ImageReward.pt")
    parser.add_argument("--config", type=Path, required=True, help="med_config.json")
    parser.add_argument("--vocabulary", type=Path, required=True, help="vocab.txt")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    config = json.loads(options.config.read_text(encoding="utf-8"))
    convert(state, config, options.vocabulary, options.out)
    print(f"{options.out}: written")


if __name__ == "__main__":
    main()
