"""Agreement on the glyph that is read."""

from __future__ import annotations

import string
from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor
from torch.nn.functional import conv2d, group_norm, linear, relu

from otcache_core.errors import OtcacheError, expected
from otcache_core.storage.files import read_bytes
from otcache_diffusers.metrics.checks import Floats, PairedImages


class Legible(PairedImages):
    r"""Whether a small network c reads the same glyph in both images of a pair.

    .. math:: \mathrm{legible}(x, y) = [\, c(x) = c(y) \,],

    1 if so and 0 if not: a mean over images is the share of them that still says the same. A
    probability in place of the 0 or 1 would change although the reading does not, and its mean
    could not be checked by eye. The drawback: small changes leave no trace here (that is what rmse
    and lpips are for), and a mean over few images moves in coarse steps.

    "None of them" is a reading too: a glyph lost or made up counts as a disagreement, and two
    images without a glyph agree. So a mean says something on prompts that ask for one capital
    letter or digit (tag ``glyph`` of the demo), where the full run's image is legible nearly
    always; over other prompts it is 1 and says nothing.

    Only for the demo image model's images, 64 by 64 pixels: other sizes are refused, not
    resized. Accuracy of c: docs/legibility.md.

    Args:
        batch: images per forward pass, at least 1.
        device: where to run, as torch names it.
    """

    name = "legible"
    higher_is_better = True
    #: Of the conformance kit, which compares images of waves: nobody reads a letter in them.
    expected_failures: ClassVar[dict[str, str]] = {
        "test_identical_inputs_are_best": "images with noise are read alike: no better, no worse",
        "test_more_noise_is_worse": "the kit's waves are not letters, with any noise",
        "test_a_small_difference_is_small_in_both_directions": "the kit's waves are not letters",
        "test_white_is_not_black": "the kit's waves are not letters, whatever covers half of them",
    }

    def __init__(self, batch: int = 64, device: str = "cpu") -> None:
        self._reader = GlyphReader(batch=batch, device=device)

    def _values(self, x: Floats, y: Floats) -> Floats:
        pairs = zip(self._reader.read(x), self._reader.read(y), strict=True)
        return np.array([a == b for a, b in pairs], dtype=np.float64)


SIDE = 64
#: What an image can be read as; the empty text means no single glyph.
CLASSES = (*string.ascii_uppercase, *string.digits, "")
LAYERS = 4

_ADVICE = (
    "glyphs are read at the demo model's size alone; a larger image of one capital letter or"
    " digit on a plain background may first be averaged over blocks down to that size."
)


class GlyphReader:
    r"""Read the glyph of an image.

    The glyph c of an image x is

    .. math:: c(x) = \arg\max_k \; \left(W f_4(x) + b\right)_k, \qquad
              f_l = \mathrm{relu}(\mathrm{norm}(K_l * f_{l-1})), \quad f_0 = 2x - 1,

    over the 26 capital letters, the 10 digits and "none of them". Each of the four convolutions
    halves the grid, 64 to 4; norm is over channels and positions of one image, so faint glyphs
    count as much as bold ones. Trained by tools/train_legibility.py on renderings like the demo
    image model's own training data; docs/legibility.md holds its accuracy. It knows one typeface
    at one size, and nothing of text elsewhere. The weights are read on the first call.

    References:
        Ba, Kiros, Hinton: Layer normalization, 2016, https://arxiv.org/abs/1607.06450.

    Args:
        weights: another safetensors file of weights than the shipped one.
        batch: images per forward pass, at least 1.
        device: where to run, as torch names it.
    """

    def __init__(self, weights: Path | None = None, batch: int = 64, device: str = "cpu") -> None:
        self._path = weights
        self._batch = max(1, batch)
        self._device = torch.device(device)

    def read(self, images: NDArray[np.floating]) -> tuple[str, ...]:
        """Return the glyph in each image, or an empty text if it shows none of them.

        Args:
            images: shape (n, 64, 64, 3), range [0, 1].

        Raises:
            OtcacheError: if the images are of another size.
        """
        if images.ndim != 4 or images.shape[1:] != (SIDE, SIDE, 3):
            wanted = f"(n, {SIDE}, {SIDE}, 3)"
            raise OtcacheError(expected("images' shape", images.shape, wanted, _ADVICE))
        starts = range(0, len(images), self._batch)
        return tuple(c for i in starts for c in self._read(images[i : i + self._batch]))

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        shipped = files("otcache_diffusers.metrics").joinpath("weights/glyphs.safetensors")
        packed = read_bytes(self._path) if self._path else shipped.read_bytes()
        return {k: v.to(self._device, torch.float32) for k, v in load(packed).items()}

    def _read(self, images: NDArray[np.floating]) -> list[str]:
        x = torch.from_numpy(images).to(self._device, torch.float32).permute(0, 3, 1, 2)
        with torch.inference_mode():
            best = scores(x, self._weights).argmax(dim=1)
        return [CLASSES[index] for index in best.tolist()]


def scores(images: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """Run the network: images (n, 3, 64, 64) in [0, 1] to one score per class, (n, 37).

    Args:
        images: channels first.
        weights: of each layer l ``conv{l}.weight``, ``norm{l}.weight`` and ``norm{l}.bias``, and
            ``head.weight`` and ``head.bias``.
    """
    x = 2.0 * images - 1.0
    for layer in range(LAYERS):
        kernel = weights[f"conv{layer}.weight"]
        x = conv2d(x, kernel, stride=2, padding=kernel.shape[-1] // 2)
        x = relu(group_norm(x, 1, weights[f"norm{layer}.weight"], weights[f"norm{layer}.bias"]))
    return linear(x.flatten(1), weights["head.weight"], weights["head.bias"])
