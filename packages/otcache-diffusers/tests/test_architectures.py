"""Published models on the meta device, against published figures and counts made another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import tiny
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from otcache_core import OtcacheError
from otcache_core.models import Architecture, Canvas
from otcache_diffusers.architectures import models, published
from otcache_diffusers.architectures.blueprint import (
    Blueprint,
    Compression,
    Latent,
    WholeMasks,
    count,
)

#: Its latent has 128 x 128 pixels.
SQUARE, LATENT = Canvas(1024, 1024), 128 * 128
#: Configurations, and parameters of the denoiser as its authors state them.
PUBLISHED = {
    models.flux_1_dev: (published.FLUX_1_DEV, 11.9e9),
    models.qwen_image: (published.QWEN_IMAGE, 20.4e9),
    models.sd3_5_large: (published.SD3_5_LARGE, 8.1e9),
    models.sdxl_base: (published.SDXL_BASE, 2.57e9),
}
#: The same models with a block or two, where depth does not matter.
SHALLOW = {
    models.sdxl_base: {"transformer_layers_per_block": 1},
    models.flux_1_dev: {"num_layers": 1, "num_single_layers": 1},
}


class _Products:
    """FLOPs of a module's linear layers and convolutions, from the shapes they see.

    2 m n per row of an m x n layer; 2 c_out (c_in / groups) k^2 per pixel of a convolution's output.
    """

    def __init__(self, module: nn.Module) -> None:
        self.flops = 0
        for part in module.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                part.register_forward_hook(self._add)

    def _add(self, part: nn.Module, args: Any, output: torch.Tensor) -> None:
        if isinstance(part, nn.Linear):
            self.flops += 2 * part.in_features * output.numel()
        else:
            k = part.weight.shape[1:].numel()
            self.flops += 2 * k * output.numel()


@pytest.mark.parametrize("make", PUBLISHED, ids=lambda make: make.__name__)
def test_parameters_are_the_published_ones(make: Callable[[], Architecture]) -> None:
    configs, parameters = PUBLISHED[make]
    with torch.device("meta"):
        denoiser = getattr(diffusers, make().model_class).from_config(dict(configs["denoiser"]))
    assert sum(p.numel() for p in denoiser.parameters()) == pytest.approx(parameters, rel=0.02)


@pytest.mark.parametrize(
    ("make", "calls_per_step", "elements"),
    [
        (models.flux_1_dev, 1, 16 * LATENT),
        (models.qwen_image, 2, 16 * LATENT),
        (models.sd3_5_large, 1, 2 * 16 * LATENT),
        (models.sdxl_base, 1, 2 * 4 * LATENT),
    ],
)
def test_outputs_and_calls(
    make: Callable[[], Architecture], calls_per_step: int, elements: int
) -> None:
    """16 channels of the flow models, 4 of SDXL; a batch of two where guidance is one call."""
    shallow = {**PUBLISHED[make][0]["denoiser"], **SHALLOW.get(make, {"num_layers": 1})}
    cost = make().measure(SQUARE, {"denoiser": shallow})
    assert (cost.calls_per_step, cost.output_elements) == (calls_per_step, elements)


def test_attention_is_counted_at_full_size() -> None:
    """Beside the linear layers nothing but 4 S^2 d a block: Q K' and P V, S tokens of width d."""
    blueprint, config = models.flux_blueprint(), published.FLUX_1_DEV
    with torch.device("meta"), torch.no_grad():
        denoiser = diffusers.FluxTransformer2DModel(**config["denoiser"])
        linear = _Products(denoiser)
        latent = blueprint.compression(config["vae"])(SQUARE, blueprint.cell)
        denoiser(**blueprint.arguments(config["denoiser"], latent))
    blocks, tokens, width = 19 + 38, 4096 + 512, 24 * 128
    cost = models.flux_1_dev().measure(SQUARE, {})
    assert cost.flops - linear.flops == blocks * 4 * tokens**2 * width
    assert cost.parameters == sum(p.numel() for p in denoiser.parameters())


def test_one_linear_layer() -> None:
    with torch.device("meta"):
        layer, x = nn.Linear(5, 7), torch.empty(3, 11, 5)
    assert count(lambda: layer(x)) == (2 * 3 * 11 * 5 * 7, 3 * 11 * 7)


def test_attention_and_convolution() -> None:
    with torch.device("meta"):
        q, k = torch.empty(2, 3, 10, 8), torch.empty(2, 3, 20, 8)
        layer, x = nn.Conv2d(4, 6, 3, padding=1), torch.empty(1, 4, 9, 9)
    attention = count(lambda: nn.functional.scaled_dot_product_attention(q, k, k))
    assert attention.flops == 2 * (2 * 3 * 10 * 20 * 8) * 2
    assert count(lambda: layer(x)).flops == 2 * 6 * 4 * 9 * 81


def test_an_output_counts_the_memory_it_keeps_alive() -> None:
    with torch.device("meta"):
        x = torch.empty(10, 4)
    assert count(lambda: (x * 2)[:1]).output_elements == 40


def test_a_tiny_transformer_on_meta_and_in_truth() -> None:
    case = tiny.flux()
    config = dict(case.denoiser.config)
    real = _Products(case.denoiser)
    case(1)
    with torch.device("meta"):
        denoiser = type(case.denoiser).from_config(config)
        inputs = {
            "hidden_states": torch.empty(1, 64, 4),
            "encoder_hidden_states": torch.empty(1, 12, 32),
            "pooled_projections": torch.empty(1, 32),
            "timestep": torch.empty(1),
            "img_ids": torch.empty(64, 3),
            "txt_ids": torch.empty(12, 3),
        }
    attention = 2 * 4 * (64 + 12) ** 2 * 32
    assert count(lambda: denoiser(**inputs)).flops == real.flops + attention


def test_a_configuration_of_one_s_own() -> None:
    small = {**published.FLUX_1_DEV["denoiser"], "num_layers": 1, "num_single_layers": 0}
    own = {**small, "guidance_embeds": False}
    flux = models.flux_1_dev()
    with_guidance, without = (flux.measure(Canvas(64, 64), {"denoiser": c}) for c in (small, own))
    assert with_guidance.parameters > without.parameters


def test_a_configuration_that_cannot_be_built() -> None:
    broken = {"denoiser": {"num_attention_heads": "many"}}
    with pytest.raises(OtcacheError, match=r"FluxTransformer2DModel must be .* cannot be built"):
        models.flux_1_dev().measure(Canvas(64, 64), broken)


@pytest.mark.parametrize(
    ("canvas", "message"),
    [
        (Canvas(1000, 1024), "height must be a multiple of 16, got 1000"),
        (Canvas(1024, 1000), "width must be a multiple of 16, got 1000"),
        (Canvas(64, 64, 5), "frames must be 1, got 5: this model makes images"),
    ],
)
def test_a_canvas_that_does_not_fit(canvas: Canvas, message: str) -> None:
    with pytest.raises(OtcacheError, match=message):
        Compression(16, 8)(canvas, 2)


def test_frames_are_compressed_too() -> None:
    assert Compression(16, 8, 4)(Canvas(64, 64, 81), 2).frames == 21
    with pytest.raises(OtcacheError, match="frames must be 1 above a multiple of 4, got 80"):
        Compression(16, 8, 4)(Canvas(64, 64, 80), 2)


def test_another_package_adds_a_video_model() -> None:
    """All a package does: a blueprint, two configurations, and the hook that names this function."""
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "text_dim": 32,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": 2,
    }
    vae = {"base_dim": 3, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}

    def arguments(config: Any, latent: Latent) -> dict[str, Any]:
        size = (latent.frames, latent.height, latent.width)
        return {
            "hidden_states": torch.empty(1, 16, *size),
            "timestep": torch.empty(1),
            "encoder_hidden_states": torch.empty(1, 8, config["text_dim"]),
        }

    wan = Blueprint(
        "WanTransformer3DModel",
        "AutoencoderKLWan",
        lambda vae: Compression(vae["z_dim"], 8, 4),
        arguments,
        lambda latent: (1, latent.channels, latent.frames, latent.height, latent.width),
        calls_per_step=2,
    )
    made = models.architecture("Toy Wan", wan, {"denoiser": config, "vae": vae}, "here", "a toy")
    one, five = (made.measure(Canvas(32, 32, frames), {}) for frames in (1, 17))
    assert (one.calls_per_step, made.model_class) == (2, "WanTransformer3DModel")
    assert five.output_elements == 5 * one.output_elements == 5 * 16 * 4 * 4
    assert 3 * one.flops < five.flops < 6 * one.flops
    assert five.decode_flops > one.decode_flops > 0


def test_masks_of_the_meta_device_are_whole() -> None:
    with torch.device("meta"), WholeMasks():
        mask, x = torch.empty(7, dtype=torch.bool), torch.empty(7, 3)
        assert bool(torch.all(mask))
        assert x[mask].shape == (7, 3)
        assert x[~mask].shape == (0, 3)
        assert x[~~mask].shape == (7, 3)
        assert torch.cat([x[mask], x[~mask]]).shape == x.shape


def test_masks_that_hold_values_are_read() -> None:
    with WholeMasks():
        mask, x = torch.tensor([True, False]), torch.ones(2, 3)
        assert x[mask].shape == (1, 3)
        assert not torch.all(mask)


class _Counting(TorchDispatchMode):
    """How often an attribute of torch is read."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_nothing_is_written_where_there_are_no_values() -> None:
    """Row by row, as the decoder of HunyuanVideo 1.5 makes its mask of 110 000 rows."""
    with WholeMasks(), _Counting() as torch_is:
        mask = torch.full((50, 50), float("-inf"), device="meta")
        for row in range(50):
            mask[row, :row] = 0
    assert torch_is.count <= 2
    with WholeMasks():
        real = torch.ones(3)
        real[1] = 0
    assert real.tolist() == [1, 0, 1]
