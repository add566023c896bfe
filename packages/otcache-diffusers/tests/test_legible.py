"""The glyph reader reads renderings and the demo's images, and `legible` is agreement on them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from legible_kit import LegibleKit
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from safetensors.numpy import load

from otcache_core.errors import OtcacheError
from otcache_diffusers import demo
from otcache_diffusers.metrics.legible import CLASSES, GlyphReader, Legible, scores

Array = NDArray[np.float64]
PACKED = files("otcache_diffusers.metrics").joinpath("weights/glyphs.safetensors")
PALETTE = ((222, 45, 48), (252, 218, 54), (45, 90, 220), (24, 24, 28), (250, 250, 250))


def drawn(glyph: str, ink: int = 3, paper: int = 4, at: tuple[int, int] = (32, 32)) -> Array:
    """Return a glyph in DejaVu Sans Bold, set by Pillow alone; an empty text leaves the paper plain."""
    matplotlib = pytest.importorskip("matplotlib")
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    canvas = Image.new("RGB", (64, 64), PALETTE[paper])
    draw = ImageDraw.Draw(canvas)
    draw.text(at, glyph, fill=PALETTE[ink], font=ImageFont.truetype(str(font), 48), anchor="mm")
    return np.asarray(canvas, dtype=np.float64) / 255


def run(texts: Sequence[str], steps: int) -> Array:
    images = demo.load()(
        list(texts),
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(i) for i in range(len(texts))],
        **demo.CALL | {"negative_prompt": [""] * len(texts)},
    ).images
    return np.stack([np.asarray(image, dtype=np.float64) / 255 for image in images])


@pytest.mark.parametrize(("ink", "paper"), [(3, 4), (1, 2), (2, 0)])
def test_every_glyph_is_read_as_it_was_set(ink: int, paper: int) -> None:
    images = np.stack([drawn(glyph, ink, paper) for glyph in CLASSES])
    assert GlyphReader().read(images) == CLASSES


def test_a_glyph_is_read_where_it_stands() -> None:
    places = [(29, 29), (35, 29), (29, 35), (35, 35)]
    assert GlyphReader().read(np.stack([drawn("R", at=place) for place in places])) == ("R",) * 4


def test_the_demo_pipeline_s_glyphs_are_read_as_asked() -> None:
    texts = [text for text, tag in demo.prompts()["heldout"] if tag == "glyph"][:4]
    wanted = tuple(text.split()[2] for text in texts)
    assert GlyphReader().read(run(texts, steps=6)) == wanted


def test_two_digits_that_were_swapped_are_caught() -> None:
    full = np.stack([drawn(glyph) for glyph in "3801"])
    swapped = full[[1, 0, 2, 3]]
    assert Legible()(full, full).tolist() == [1.0] * 4
    assert Legible()(swapped, full).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_a_glyph_lost_or_made_up_is_a_disagreement() -> None:
    images = np.stack([drawn("K"), drawn("")])
    assert Legible()(images, images[::-1]).tolist() == [0.0, 0.0]


def test_colour_and_place_do_not_matter() -> None:
    x = np.stack([drawn("Q", 1, 2), drawn("7", 0, 4)])
    y = np.stack([drawn("Q", 3, 4), drawn("7", 4, 3, at=(30, 34))])
    assert Legible()(x, y).tolist() == [1.0, 1.0]


def test_a_drowned_glyph_is_none_of_them() -> None:
    noise = np.random.default_rng(0).random((4, 64, 64, 3))
    assert GlyphReader().read(noise) == ("",) * 4


@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (1, 128, 128, 3), (1, 64, 96, 3)])
def test_other_sizes_are_refused_with_advice(shape: tuple[int, ...]) -> None:
    images = np.full(shape, 0.5)
    with pytest.raises(OtcacheError, match=r"must be \(n, 64, 64, 3\), got .*averaged over blocks"):
        Legible()(images, images)


def test_the_network_is_its_formula() -> None:
    weights = load(PACKED.read_bytes())
    image = np.random.default_rng(0).random((64, 64, 3))
    x = 2 * image.transpose(2, 0, 1) - 1
    for layer in range(4):
        kernel = weights[f"conv{layer}.weight"].astype(np.float64)
        k = kernel.shape[-1]
        x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
        windows = sliding_window_view(x, (k, k), axis=(1, 2))[:, ::2, ::2]
        x = np.einsum("chwij,ocij->ohw", windows, kernel, optimize=True)
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        scale, shift = (weights[f"norm{layer}.{k}"][:, None, None] for k in ("weight", "bias"))
        x = np.maximum(x * scale + shift, 0)
    wanted = weights["head.weight"].astype(np.float64) @ x.ravel() + weights["head.bias"]
    tensors = {name: torch.from_numpy(w.astype(np.float32)) for name, w in weights.items()}
    pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    np.testing.assert_allclose(scores(pixels, tensors)[0].numpy(), wanted, rtol=1e-3, atol=1e-3)


def test_noise_that_grows_drowns_more_and_more_glyphs() -> None:
    clean = np.stack([drawn(glyph) for glyph in CLASSES if glyph])
    noise = np.random.default_rng(0).uniform(-1.0, 1.0, clean.shape)
    stacks = [np.clip(clean + amount * noise, 0.0, 1.0) for amount in (0.2, 1.5, 8.0)]
    little, more, much = (Legible()(stack, clean).mean() for stack in stacks)
    assert little == 1.0
    assert little >= more > much
    assert much < 0.1


def test_batches_do_not_matter() -> None:
    images = np.stack([drawn(glyph) for glyph in "ABCDE"])
    assert GlyphReader(batch=2).read(images) == tuple("ABCDE")


def test_weights_are_small_half_precision_and_read_on_the_first_call() -> None:
    packed = PACKED.read_bytes()
    assert len(packed) <= 400_000
    assert all(w.dtype == np.float16 for w in load(packed).values())
    assert "_weights" not in vars(GlyphReader())


class TestLegible(LegibleKit):
    pass
