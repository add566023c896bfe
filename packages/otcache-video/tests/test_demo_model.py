"""The packaged video pipeline: loads offline, is small, repeats, and moves things as prompted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_video import demo

MEGABYTE = 2**20
DIRECTIONS = {"left": (1, -1), "right": (1, 1), "up": (0, -1), "down": (0, 1)}


@pytest.fixture(scope="module")
def pipe() -> Any:
    """Provide the pipeline, loaded once."""
    return demo.load()


def _video(pipe: Any, text: str, steps: int) -> NDArray[np.float32]:
    generator = torch.Generator().manual_seed(0)
    call = {**demo.CALL, "num_inference_steps": steps, "generator": generator}
    frames: NDArray[np.float32] = pipe(text, **call, output_type="np").frames
    return frames


def test_folder_is_small() -> None:
    sizes = [path.stat().st_size for path in demo.folder().rglob("*") if path.is_file()]
    assert sum(sizes) <= 16 * MEGABYTE


@pytest.mark.remedy("holds no trained model: make one with tools/train_demo_video.py --out {}")
def test_a_copy_without_the_model_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = Path(__file__).parents[3] / "tools"
    if (tools / "train_demo_video.py").exists():
        assert '"--out"' in (tools / "demo_models/script.py").read_text(encoding="utf-8")
    made = demo.folder()  # what the script wrote
    monkeypatch.setattr(demo, "folder", lambda: tmp_path / "model")
    with pytest.raises(OtcacheError, match="holds no trained model") as caught:
        demo.prompts()
    named = Path(str(caught.value).split("--out ")[1].removesuffix("."))
    named.mkdir()
    for name in ("model_index.json", "prompts.json"):
        (named / name).write_bytes((made / name).read_bytes())
    assert demo.prompts()


def test_prompts_are_enough_and_disjoint() -> None:
    roles = {role: {text for text, _ in pairs} for role, pairs in demo.prompts().items()}
    assert {role: len(texts) for role, texts in roles.items() if role != "novel"} == {
        "calibration": 16,
        "heldout": 32,
    }
    assert len(roles["novel"]) >= 16
    assert len(set.union(*roles.values())) == sum(map(len, roles.values()))


def test_every_word_of_the_prompts_is_a_token(pipe: Any) -> None:
    for pairs in demo.prompts().values():
        for text, _ in pairs:
            ids = pipe.tokenizer(text).input_ids
            assert len(ids) == len(text.split()) + 1 <= demo.CALL["max_sequence_length"]
            assert pipe.tokenizer.unk_token_id not in ids


def test_text_encoder_keeps_its_tied_embedding(pipe: Any) -> None:
    encoder = pipe.text_encoder
    assert encoder.shared.weight.data_ptr() == encoder.encoder.embed_tokens.weight.data_ptr()


def test_a_call_is_deterministic_and_has_the_shape(pipe: Any) -> None:
    text = demo.prompts()["heldout"][0][0]
    first, second = _video(pipe, text, 2), _video(pipe, text, 2)
    assert first.shape == (1, 9, 48, 48, 3)
    np.testing.assert_array_equal(first, second)


def _centroid(frame: NDArray[np.float32]) -> NDArray[np.float64]:
    """Centre (row, column) of what differs from the border's median colour."""
    border = np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])
    weight = np.abs(frame - np.median(border, axis=0)).sum(axis=-1) > 0.5
    return np.argwhere(weight).mean(axis=0)


@pytest.mark.parametrize("direction", sorted(DIRECTIONS))
def test_the_object_moves_as_the_caption_says(pipe: Any, direction: str) -> None:
    text = next(
        text
        for text, tag in demo.prompts()["heldout"]
        if tag == "shape" and f"moving {direction}" in text
    )
    frames = _video(pipe, text, 10)[0]
    axis, sign = DIRECTIONS[direction]
    shift = _centroid(frames[-1]) - _centroid(frames[0])
    assert sign * shift[axis] > 8.0
    assert abs(shift[1 - axis]) < 4.0
