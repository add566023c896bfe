"""How well images fit their prompts, by CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from otcache_core.contracts.comparison import PromptMetric
from otcache_core.errors import OtcacheError, expected
from otcache_diffusers.metrics.checks import check_images, load_pretrained, local_path

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
FILES = (
    "config.json",
    "model.safetensors|model.safetensors.index.json",
    "tokenizer.json|vocab.json",
)
ADVICE = (
    "give the folder of a CLIP model as transformers' save_pretrained writes it, such as a copy of "
    "openai/clip-vit-large-patch14."
)


class ClipScore(PromptMetric):
    r"""CLIPScore without a reference: one hundred times the cosine of the embeddings.

    .. math:: \mathrm{CLIPScore}(x, c) = 100 \max(\cos(E_x, E_c), 0),

    as text-to-image work reports it; the paper's own figure is 2.5 max(cos, 0). The prompt is taken
    unchanged, cut at the text tower's length (77 tokens). Runs in float32. It depends on the CLIP
    model, so state which; it is sensitive to objects and hardly to artefacts.

    References:
        Hessel, Holtzman, Forbes, Le Bras, Choi: CLIPScore: a reference-free evaluation metric for
        image captioning, 2021, https://arxiv.org/abs/2104.08718.

    Args:
        path: folder of a CLIP model and its tokenizer, as transformers writes them, with safetensors.
            Images are normalised as OpenAI's and LAION's models are. Loaded on the first call.
        batch: images per forward pass, at least 1.
        device: where to run, as torch names it.

    Raises:
        OtcacheError: if there is no such folder, or a file is missing in it.
    """

    name = "clip-score"
    higher_is_better = True
    needs = "folder of a CLIP model"

    def __init__(
        self, path: str | Path | None = None, batch: int = 16, device: str = "cpu"
    ) -> None:
        self._folder = local_path(path, "clip-score: the CLIP model", ADVICE, FILES)
        self._batch, self._device = max(1, batch), torch.device(device)

    def __call__(self, images: NDArray[np.floating], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Score image by image: shape (n, height, width, 3) to (n,), 0 to 100.

        Raises:
            OtcacheError: if there is another number of prompts, or values are not floating point in
                [0, 1].
        """
        return 100.0 * in_batches(self._cosines, images, prompts, self._batch)

    def _cosines(self, images: NDArray[np.float64], texts: list[str]) -> Tensor:
        model, tokenizer = self._model
        length = model.config.text_config.max_position_embeddings
        words = tokenizer(
            texts, padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        embedded = model(
            input_ids=words["input_ids"].to(self._device),
            attention_mask=words["attention_mask"].to(self._device),
            pixel_values=clip_pixels(images, model.config.vision_config.image_size, self._device),
        )
        cosines = torch.cosine_similarity(embedded.image_embeds, embedded.text_embeds, dim=-1)
        return cosines.clamp(min=0.0)

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        tokenizer = load_pretrained("AutoTokenizer", self._folder, self.name)
        model = load_pretrained("CLIPModel", self._folder, self.name, use_safetensors=True)
        return model.to(self._device, torch.float32).eval(), tokenizer


def in_batches(
    judge: Callable[[NDArray[np.float64], list[str]], Tensor],
    images: NDArray[np.floating],
    prompts: Sequence[str],
    batch: int,
) -> NDArray[np.float64]:
    """Judge images and their prompts in batches, shape (n,).

    Args:
        judge: returns one value per image.
        images: shape (n, height, width, 3), range [0, 1].
        prompts: n texts.
        batch: images per forward pass.

    Raises:
        OtcacheError: if there is another number of prompts, one text in place of several, or values
            are not floating point in [0, 1].
    """
    x = check_images(images)
    if isinstance(prompts, str) or len(prompts) != len(x):
        got = "one text" if isinstance(prompts, str) else len(prompts)
        raise OtcacheError(expected("prompts", got, f"{len(x)} texts, one for each image"))
    texts, starts = list(prompts), range(0, len(x), batch)
    with torch.inference_mode():
        parts = [judge(x[i : i + batch], texts[i : i + batch]) for i in starts]
    return torch.cat(parts).double().cpu().numpy()


def clip_pixels(images: NDArray[np.floating], side: int, device: torch.device) -> Tensor:
    """Prepare images as CLIP's and BLIP's vision towers take them.

    The shorter side is resized to ``side`` by an antialiased bicubic, the centre is cropped, and values
    are normalised.

    The authors' own code resizes 8-bit images and rounds; this one does not round, which moves a
    pixel by less than 1 / 255.

    References:
        Radford and others: Learning transferable visual models from natural language supervision,
        2021, https://arxiv.org/abs/2103.00020.

    Args:
        images: shape (n, height, width, 3), range [0, 1].
        side: pixels of the tower's input.
        device: where the tower runs.

    Returns:
        Shape (n, 3, side, side), float32.
    """
    x = torch.from_numpy(np.ascontiguousarray(images)).to(device, torch.float32)
    x = x.permute(0, 3, 1, 2)
    height, width = x.shape[-2:]
    if min(height, width) != side:
        size = (side, side * width // height) if height <= width else (side * height // width, side)
        x = interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False)
        x = x.clamp(0.0, 1.0)
    top, left = (x.shape[-2] - side) // 2, (x.shape[-1] - side) // 2
    x = x[..., top : top + side, left : left + side]
    mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (x - mean) / std
