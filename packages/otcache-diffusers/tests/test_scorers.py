"""CLIPScore and ImageReward: what they are fed, and what they ask for."""

from __future__ import annotations

from pathlib import Path

import metric_kits
import numpy as np
import pytest
import torch
from PIL import Image

from otcache_core import OtcacheError
from otcache_core.testing.metric_checks import waves
from otcache_diffusers.metrics.clip_score import MEAN, STD, ClipScore, clip_pixels
from otcache_diffusers.metrics.image_reward import ImageReward

CPU = torch.device("cpu")


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 90), (96, 40), (20, 20)])
def test_pixels_are_those_of_pillow_s_bicubic(height: int, width: int) -> None:
    """The authors resize with Pillow, which rounds to bytes twice: half a step each time."""
    side, pixels = 32, np.round(255 * waves(1, (height, width, 3))).astype(np.uint8)
    short = side / min(height, width)
    size = (int(width * short), int(height * short))
    resized = Image.fromarray(pixels[0]).resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    cut = np.asarray(resized.crop((left, top, left + side, top + side))) / 255.0
    found = clip_pixels(pixels / 255.0, side, CPU)[0].permute(1, 2, 0).numpy() * STD + MEAN
    np.testing.assert_allclose(found, cut, atol=1.5 / 255)


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    x = waves(2, (32, 32, 3))
    expected = ((x - MEAN) / STD).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(clip_pixels(x, 32, CPU).numpy(), expected, atol=1e-6)


def test_the_middle_of_a_wide_image_is_seen() -> None:
    x = np.zeros((1, 32, 96, 3))
    x[:, :, 32:64] = 1.0
    white = ((1.0 - np.array(MEAN)) / STD)[None, :, None, None] * np.ones((1, 3, 32, 32))
    np.testing.assert_allclose(clip_pixels(x, 32, CPU).numpy(), white, atol=1e-6)


@pytest.mark.parametrize("name", ["clip-score", "image-reward"])
def test_a_prompt_longer_than_the_model_reads_is_cut(name: str) -> None:
    metric = metric_kits.KITS[name]().make_metric()
    images = np.repeat(waves(1, (32, 32, 3)), 2, axis=0)
    long = "a red circle on a blue background " * 20
    values = metric(images, [long, long + "a small cat"])
    assert np.isfinite(values).all()
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize("name", ["clip-score", "image-reward"])
def test_batches_do_not_matter(name: str) -> None:
    kit = metric_kits.KITS[name]()
    folder = metric_kits.clip_folder() if name == "clip-score" else metric_kits.reward()
    one = type(kit.make_metric())(folder, 1)
    together = kit.make_metric()(waves(3, (32, 32, 3)), kit.prompts)
    assert one(waves(3, (32, 32, 3)), kit.prompts) == pytest.approx(together, rel=1e-4)


def test_one_text_is_not_a_list_of_texts() -> None:
    with pytest.raises(OtcacheError, match=r"prompts must be 3 texts, .* got 'one text'"):
        ClipScore(metric_kits.clip_folder())(
            waves(3, (32, 32, 3)), "cat"
        )  # three letters, three images


@pytest.mark.remedy(
    "give the folder of a CLIP model as transformers' save_pretrained writes it, such"
)
@pytest.mark.remedy(
    "give the folder that tools/convert_image_reward.py writes from ImageReward.pt, med"
)
def test_no_path_or_half_a_folder_is_an_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(
        OtcacheError, match=r"local path, got none: give the folder of a CLIP model"
    ):
        ClipScore()
    with pytest.raises(OtcacheError, match=r"must be a folder, got '.*nowhere'"):
        ClipScore(tmp_path / "nowhere")
    with pytest.raises(OtcacheError, match=r"must hold config.json, got none"):
        ClipScore(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(OtcacheError, match=r"must hold model.safetensors or model.safe"):
        ClipScore(tmp_path)
    with pytest.raises(
        OtcacheError, match=r"got none: give the folder that tools/convert_image_rew"
    ):
        ImageReward()
    with pytest.raises(OtcacheError, match=r"must hold vision/config.json"):
        ImageReward(tmp_path)
    ClipScore(metric_kits.clip_folder())
    ImageReward(metric_kits.reward())


def test_nothing_is_loaded_before_the_first_call() -> None:
    assert "_model" not in vars(ClipScore(metric_kits.clip_folder()))
    assert "_parts" not in vars(ImageReward(metric_kits.reward()))
