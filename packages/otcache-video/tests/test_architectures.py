"""Published video models on the meta device, against published figures and counts made another way."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from otcache_core import OtcacheError
from otcache_core.models import Architecture, CallCost, Canvas
from otcache_core.plugins import Registry
from otcache_video import architectures, plugin

Make = Callable[[], Architecture]
#: Each model at the image size its authors give, of a few latent frames: parameters, calls per step,
#: channels and latent pixels of an output with its batch.
SIZES: dict[Make, tuple[Canvas, float, int, int]] = {
    architectures.wan_2_1_1_3b: (Canvas(480, 832, 17), 1.42e9, 2, 16 * 5 * 60 * 104),
    architectures.wan_2_1_14b: (Canvas(720, 1280, 9), 14.3e9, 2, 16 * 3 * 90 * 160),
    architectures.hunyuan_video: (Canvas(720, 1280, 9), 12.8e9, 1, 16 * 3 * 90 * 160),
    architectures.hunyuan_video_1_5: (Canvas(720, 1280, 9), 8.3e9, 2, 32 * 3 * 45 * 80),
    architectures.cogvideox_5b: (Canvas(480, 720, 9), 5.57e9, 1, 2 * 16 * 3 * 60 * 90),
    architectures.ltx_video: (Canvas(512, 704, 17), 1.92e9, 1, 2 * 128 * 3 * 16 * 22),
}


@cache
def measured(make: Make) -> CallCost:
    return make().measure(SIZES[make][0], {})


@pytest.mark.parametrize("make", SIZES, ids=lambda make: make.__name__)
def test_published_sizes(make: Make) -> None:
    _, parameters, calls_per_step, elements = SIZES[make]
    cost = measured(make)
    assert cost.parameters == pytest.approx(parameters, rel=0.01)
    assert (cost.calls_per_step, cost.output_elements) == (calls_per_step, elements)
    assert cost.decode_flops > cost.flops / 100


@pytest.mark.parametrize(
    ("make", "tokens", "text", "width", "layers", "mlp"),
    [
        (architectures.wan_2_1_1_3b, 5 * 30 * 52, architectures.WAN_TEXT, 12 * 128, 30, 8960),
        (architectures.wan_2_1_14b, 3 * 45 * 80, architectures.WAN_TEXT, 40 * 128, 40, 13824),
    ],
)
def test_wan_by_hand(make: Make, tokens: int, text: int, width: int, layers: int, mlp: int) -> None:
    """S tokens of width d, T of text: two FLOPs a multiply-add, embeddings aside.

    Self-attention 4 S d^2 and 2 S^2 d, cross-attention 2 S d^2 + 2 T d^2 and 2 S T d, the MLP
    2 S d f, in multiply-adds a block.
    """
    s, t, d = tokens, text, width
    block = 4 * s * d * d + 2 * s * s * d + 2 * (s + t) * d * d + 2 * s * t * d + 2 * s * d * mlp
    assert measured(make).flops == pytest.approx(2 * layers * block, rel=1e-3)


def test_hunyuan_video_by_hand() -> None:
    """S tokens of the video and T of the text, side by side in all blocks, d = 3072.

    A block has attention 2 (S + T)^2 d and 12 d^2 for each token, in multiply-adds.
    """
    tokens, d = 3 * 45 * 80 + architectures.HUNYUAN_TEXT, 24 * 128
    attention, layers = 2 * tokens**2 * d, 12 * tokens * d * d
    flops = 2 * (20 + 40) * (attention + layers)
    assert measured(architectures.hunyuan_video).flops == pytest.approx(flops, rel=1e-2)


def test_hunyuan_video_1_5_reads_all_its_text() -> None:
    """54 blocks over video, prompt, glyphs and image, d = 2048; padding takes part in the arithmetic."""
    text = architectures.HUNYUAN_1_5_TEXT + architectures.GLYPHS + architectures.IMAGE
    tokens, d = 3 * 45 * 80 + text, 16 * 128
    flops = 2 * 54 * (2 * tokens**2 * d + 12 * tokens * d * d)
    assert measured(architectures.hunyuan_video_1_5).flops == pytest.approx(flops, rel=1e-2)


def test_frames_that_do_not_fit() -> None:
    with pytest.raises(OtcacheError, match="frames must be 1 above a multiple of 8, got 80"):
        architectures.ltx_video().measure(Canvas(512, 704, 80), {})
    with pytest.raises(OtcacheError, match="width must be a multiple of 16, got 1000"):
        architectures.wan_2_1_14b().measure(Canvas(720, 1000, 81), {})


def test_the_plugin_offers_them_all() -> None:
    registry = Registry(entry_points=False)
    registry.register(plugin, "otcache-video")
    names = [offer.info.name for offer in registry.infos("architectures")]
    offered = [registry.create("architectures", name) for name in names]
    assert {made.name for made in offered} == {
        make().name for make in (*SIZES, architectures.wan_2_2_a14b)
    }
