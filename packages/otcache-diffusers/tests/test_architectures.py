"""Published models on the meta device, against published figures and counts made another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from otcache_core import OtcacheError
from otcache_core.architecture import Architecture, CallCost, Canvas
from otcache_diffusers.architectures import calls, models, published
from otcache_diffusers.architectures.latent import Compression
from otcache_diffusers.architectures.measuring import count

SQUARE = Canvas(1024, 1024)
#: Parameters of the denoiser as its authors state them.
PUBLISHED = {
    models.flux_1_dev: 11.9e9,
    models.qwen_image: 20.4e9,
    models.sd3_5_large: 8.1e9,
    models.sdxl_base: 2.57e9,
}


@pytest.fixture(scope="module")
def costs() -> dict[Callable[[], Architecture], CallCost]:
    return {make: make().measure(SQUARE, {}) for make in PUBLISHED}


@pytest.fixture(scope="module", params=PUBLISHED, ids=lambda make: make.__name__)
def published_model(request: pytest.FixtureRequest, costs: Any) -> tuple[float, CallCost]:
    return PUBLISHED[request.param], costs[request.param]


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


def test_parameters_are_the_published_ones(published_model: tuple[float, CallCost]) -> None:
    parameters, cost = published_model
    assert cost.parameters == pytest.approx(parameters, rel=0.02)


def test_outputs_and_calls(costs: Any) -> None:
    """A latent of 1024 x 1024 is 128 x 128: 16 channels of the flow models, 4 of SDXL."""
    latent = 128 * 128
    elements = [cost.output_elements for cost in costs.values()]
    assert elements == [16 * latent, 16 * latent, 2 * 16 * latent, 2 * 4 * latent]
    assert [cost.calls_per_step for cost in costs.values()] == [1, 2, 1, 1]


def test_attention_is_counted_at_full_size(costs: Any) -> None:
    """Beside the linear layers nothing but 4 S^2 d a block: Q K' and P V, S tokens of width d."""
    blueprint, config = calls.flux(), published.FLUX_1_DEV
    import diffusers

    with torch.device("meta"):
        denoiser = diffusers.FluxTransformer2DModel(**config["denoiser"])
        latent = blueprint.compression(config["vae"])(SQUARE, blueprint.cell)
        linear = _Products(denoiser)
        with torch.no_grad():
            denoiser(**blueprint.arguments(config["denoiser"], latent))
    blocks, tokens, width = 19 + 38, 4096 + 512, 24 * 128
    assert costs[models.flux_1_dev].flops - linear.flops == blocks * 4 * tokens**2 * width


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
        (Canvas(64, 64, 5), "frames must be 1, got 5: this model makes pictures"),
    ],
)
def test_a_canvas_that_does_not_fit(canvas: Canvas, message: str) -> None:
    with pytest.raises(OtcacheError, match=message):
        Compression(16, 8)(canvas, 2)


def test_frames_are_compressed_too() -> None:
    assert Compression(16, 8, 4)(Canvas(64, 64, 81), 2).frames == 21
    with pytest.raises(OtcacheError, match="frames must be 1 above a multiple of 4, got 80"):
        Compression(16, 8, 4)(Canvas(64, 64, 80), 2)
