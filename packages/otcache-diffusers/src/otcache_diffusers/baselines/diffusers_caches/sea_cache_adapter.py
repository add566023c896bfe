"""What SeaCache must be told about a Flux pipeline, by the two doors that diffusers documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch


def flux_latents(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[torch.Tensor]:
    """A ``raw_vision_callback``: the packed tokens of Flux as pictures, (C, 1, H, W) each.

    Two by two pixels of C channels make one token, the channel first; ``img_ids`` holds the rows and
    columns of the tokens.
    """
    tokens, ids = kwargs["hidden_states"], kwargs["img_ids"]
    height, width = (int(ids[..., axis].max()) + 1 for axis in (1, 2))
    channels = tokens.shape[-1] // 4
    squares = tokens.unflatten(2, (channels, 2, 2)).unflatten(1, (height, width))
    pictures = squares.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return list(pictures.unsqueeze(2))


@contextmanager
def told_positions(target: Any) -> Iterator[None]:
    """A context in which each ``cache_context`` says at which step and sigma it is entered.

    What the pipeline says itself is kept.

    Args:
        target: the pipeline; ``cache_context`` of its transformer is wrapped on the instance.
    """
    denoiser, scheduler = target.transformer, target.scheduler
    original, before = denoiser.cache_context, vars(denoiser).get("cache_context")

    def cache_context(name: str, **known: Any) -> AbstractContextManager[None]:
        step = getattr(scheduler, "step_index", None) or 0
        position = {
            "step_index": step,
            "sigma": float(scheduler.sigmas[step]),
            "num_inference_steps": len(scheduler.timesteps),
        }
        context: AbstractContextManager[None] = original(name, **{**position, **known})
        return context

    vars(denoiser)["cache_context"] = cache_context
    try:
        yield
    finally:
        del vars(denoiser)["cache_context"]
        if before is not None:
            vars(denoiser)["cache_context"] = before
