"""From a configuration to what one call costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from otcache_core.errors import OtcacheError
from otcache_core.models import CallCost, Canvas, Configs
from otcache_diffusers.architectures.latent import Compression, Latent
from otcache_diffusers.architectures.measuring import count
from otcache_diffusers.compat import load
from otcache_diffusers.recording.quiet import quiet_loading

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Blueprint:
    """How a class of models is built and called, whatever its configuration.

    Args:
        denoiser: class name in diffusers.
        vae: class name in diffusers.
        compression: what the encoder does, from its configuration.
        arguments: of one denoiser call, from its configuration and the latents; called with the meta
            device as the default one.
        latents: shape the decoder takes.
        cell: latent pixels on the side of one token.
        calls_per_step: 2 where guidance makes a call for each branch.
    """

    denoiser: str
    vae: str
    compression: Callable[[Config], Compression]
    arguments: Callable[[Config, Latent], dict[str, Any]]
    latents: Callable[[Latent], tuple[int, ...]]
    cell: int = 2
    calls_per_step: int = 1

    def measure(self, canvas: Canvas, configs: Configs) -> CallCost:
        """Build it on the meta device, call the denoiser once and decode once.

        Args:
            canvas: one picture or clip.
            configs: of ``denoiser`` and ``vae``.

        Raises:
            OtcacheError: if the canvas does not fit, or a configuration cannot be built or called.
        """
        try:
            return self._measure(canvas, configs["denoiser"], configs["vae"])
        except OtcacheError:
            raise
        except Exception as error:  # whatever a foreign configuration breaks, wherever it does
            reason = f"{type(error).__name__}: {error}"
            raise OtcacheError(
                f"{self.denoiser} must be one that {self.vae} decodes for and its pipeline calls, "
                f"got a configuration that cannot be built or called: {reason}"
            ) from error

    def _measure(self, canvas: Canvas, denoiser_config: Config, vae_config: Config) -> CallCost:
        latent = self.compression(vae_config)(canvas, self.cell)
        denoiser = _build(self.denoiser, denoiser_config)
        decoder = _build(self.vae, vae_config)
        with torch.device("meta"):
            arguments = self.arguments(denoiser_config, latent)
            decoded = torch.empty(self.latents(latent))
        call = count(lambda: denoiser(**arguments, return_dict=False))
        return CallCost(
            parameters=sum(p.numel() for p in denoiser.parameters()),
            flops=call.flops,
            output_elements=call.output_elements,
            calls_per_step=self.calls_per_step,
            decode_flops=count(lambda: decoder.decode(decoded, return_dict=False)).flops,
        )


def _build(class_name: str, config: Config) -> Any:
    kind = load(f"diffusers:{class_name}", "counting the cost of a model")
    with torch.device("meta"), quiet_loading("diffusers"):
        module: nn.Module = kind.from_config(dict(config))
    return module.eval()
