"""The packaged demo model is what the training script writes, and small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from demo_models import scenes  # noqa: E402
from demo_models.prompts import make_prompts  # noqa: E402

FOLDER = ROOT / "packages/otcache-diffusers/src/otcache_diffusers/demo_model"
PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2")


def test_packaged_prompts_are_the_script_s() -> None:
    packaged = json.loads((FOLDER / "prompts.json").read_text(encoding="utf-8"))
    assert packaged == make_prompts(scenes)


def test_folder_holds_float16_weights_within_ten_megabytes() -> None:
    safetensors = pytest.importorskip("safetensors")
    for part in PARTS:
        (path,) = (FOLDER / part).glob("*.safetensors")
        with safetensors.safe_open(path, "numpy") as weights:
            kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, part
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 10_000_000


def test_every_word_is_one_token_of_both_packaged_tokenizers() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    for folder, extra in (("tokenizer", 2), ("tokenizer_2", 1)):
        tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / folder / "tokenizer.json"))
        for group in make_prompts(scenes).values():
            for prompt in group:
                ids = tokenizer.encode(prompt["text"]).ids
                assert len(ids) == len(prompt["text"].split()) + extra, prompt["text"]


def test_model_card_names_the_licence_of_the_images() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "CC-BY 4.0" in card
    assert "DejaVu" in card
