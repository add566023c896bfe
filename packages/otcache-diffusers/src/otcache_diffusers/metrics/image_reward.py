"""Human preference, as ImageReward predicts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from otcache_core.contracts.comparison import PromptMetric
from otcache_core.errors import expected
from otcache_core.storage.array_files import load_arrays
from otcache_core.storage.files import bad_file
from otcache_diffusers.metrics.checks import load_pretrained, local_path
from otcache_diffusers.metrics.clip_score import clip_pixels, in_batches

FILES = ("vision/config.json", "text/config.json", "tokenizer", "head.safetensors")
ADVICE = (
    "give the folder that tools/convert_image_reward.py writes from ImageReward.pt, med_config.json and "
    "the vocab.txt of bert-base-uncased."
)
#: Of the rewards in the authors' training data.
MEAN, STD = 0.16717362830052426, 1.0333394966054072
LENGTH = 35
LAYERS = 5


class ImageReward(PromptMetric):
    r"""ImageReward: a linear head on BLIP's text encoder that attends to the image.

    .. math:: r(x, c) = \frac{h(\mathrm{BLIP}(c \mid x)_{\mathrm{[CLS]}}) - 0.167}{1.033},

    distributed about as a standard normal over the authors' own data; the prompt is cut at 35 tokens. Runs in
    float32. It was trained on what people ranked, and values over 0 say nothing by themselves: show
    the full run's beside it.

    References:
        Xu, Liu, Wu, Tong, Li, Ding, Tang, Dong: ImageReward: learning and evaluating human
        preferences for text-to-image generation, 2023, https://arxiv.org/abs/2304.05977.

    Args:
        path: folder with the converted weights: ``vision`` and ``text`` (BLIP, as transformers
            writes it), ``tokenizer``, ``head.safetensors``; ``tools/convert_image_reward.py`` makes
            it. Loaded on the first call.
        batch: images per forward pass, at least 1.
        device: where to run, as torch names it.

    Raises:
        OtcacheError: if there is no such folder, or a part is missing in it.
    """

    name = "image-reward"
    higher_is_better = True
    needs = "folder of converted ImageReward weights"

    def __init__(self, path: str | Path | None = None, batch: int = 8, device: str = "cpu") -> None:
        self._folder = local_path(path, "image-reward: the weights", ADVICE, FILES)
        self._batch, self._device = max(1, batch), torch.device(device)

    def __call__(self, images: NDArray[np.floating], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Score image by image: shape (n, height, width, 3) to (n,).

        Raises:
            OtcacheError: if there is another number of prompts, or values are not floating point in
                [0, 1].
        """
        return in_batches(self._rewards, images, prompts, self._batch)

    def _rewards(self, images: NDArray[np.float64], texts: list[str]) -> Tensor:
        tokenizer, vision, text, head = self._parts
        words = tokenizer(
            texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        pixels = clip_pixels(images, vision.config.image_size, self._device)
        seen = vision(pixel_values=pixels).last_hidden_state
        read: Tensor = text(
            input_ids=words["input_ids"].to(self._device),
            attention_mask=words["attention_mask"].to(self._device),
            encoder_hidden_states=seen,
            encoder_attention_mask=seen.new_ones(seen.shape[:2], dtype=torch.long),
        ).last_hidden_state[:, 0]
        for layer in range(LAYERS):
            weight, bias = (head[f"{layer}.{kind}"] for kind in ("weight", "bias"))
            read = linear(read, weight, bias)
        return (read[:, 0] - MEAN) / STD

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any, dict[str, Tensor]]:
        """Tokenizer, vision and text towers, and the head's weights."""
        part = partial(load_pretrained, folder=self._folder, purpose=self.name)
        tower = partial(part, use_safetensors=True)
        tokenizer = part("AutoTokenizer", part="tokenizer")
        vision = tower("BlipVisionModel", part="vision")
        text = tower("BlipTextModel", part="text", add_pooling_layer=False)
        head, _ = load_arrays(self._folder / "head.safetensors")
        _check_head(self._folder / "head.safetensors", head)
        placed = {k: torch.from_numpy(v).to(self._device, torch.float32) for k, v in head.items()}
        vision, text = (tower.to(self._device, torch.float32).eval() for tower in (vision, text))
        return tokenizer, vision, text, placed


def _check_head(path: Path, head: Mapping[str, NDArray[np.generic]]) -> None:
    """Check that each layer takes what the one before it gives, and that the last gives one number."""
    for layer in range(LAYERS):
        shapes = [head[key].shape for key in (f"{layer}.weight", f"{layer}.bias") if key in head]
        width = head[f"{layer + 1}.weight"].shape[-1:] if f"{layer + 1}.weight" in head else (1,)
        if len(shapes) < 2 or len(shapes[0]) != 2 or not shapes[0][:1] == shapes[1] == width:
            what = f"layer {layer}: weight and bias"
            raise bad_file(path, expected(what, shapes, f"matrix and vector of {width} rows"))
