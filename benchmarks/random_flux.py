"""A FluxPipeline of random weights, its call and its schedules, for benchmarks of the executor."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from otcache_core import Schedule
from otcache_core.transport import uniform_steps

#: Outputs that a forecast combines, at most.
MEMORY = 3


def random_flux(double: int, single: int, heads: int, joint: int, device: str = "cpu") -> Any:
    """Make the pipeline.

    Args:
        double: number of blocks of two streams.
        single: number of blocks of one stream.
        heads: of width 64.
        joint: width of text embeddings.
        device: on which the weights are drawn.
    """
    torch.manual_seed(0)
    with torch.device(device):
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=64,
            num_attention_heads=heads,
            joint_attention_dim=joint,
            pooled_projection_dim=joint,
            axes_dims_rope=(16, 24, 24),
        )
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    scheduler = FlowMatchEulerDiscreteScheduler()
    pipe = FluxPipeline(scheduler=scheduler, transformer=transformer.eval(), **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random_call(
    num_steps: int, size: int, text: int, joint: int, *, guided: bool = False, place: Any = "cpu"
) -> dict[str, Any]:
    """Make the arguments of its call.

    Args:
        num_steps: N.
        size: height and width of the image.
        text: length of text embeddings.
        joint: their width.
        guided: with a second branch.
        place: device, type or both of the embeddings, as ``Tensor.to`` takes them.
    """
    generator = torch.Generator().manual_seed(1)
    place = place if isinstance(place, tuple) else (place,)

    def embeds(prefix: str) -> dict[str, Any]:
        shapes = {"prompt_embeds": (1, text, joint), "pooled_prompt_embeds": (1, joint)}
        return {
            prefix + name: torch.randn(shape, generator=generator).to(*place)
            for name, shape in shapes.items()
        }

    call = embeds("") | {"height": size, "width": size, "num_inference_steps": num_steps}
    call["output_type"] = "latent"
    if guided:
        call |= embeds("negative_") | {"true_cfg_scale": 3.0}
    return call


def fitted_schedule(num_steps: int, budget: int) -> Schedule:
    """Space steps evenly, and forecast from the last outputs by weights, as policies do."""
    weights = tuple((0.1,) * min(MEMORY, i + 1) for i in range(budget))
    return Schedule(num_steps, uniform_steps(num_steps, budget), "fitted", weights)
