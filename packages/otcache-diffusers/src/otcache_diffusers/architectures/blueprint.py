"""From a configuration to the cost of one call, on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from otcache_core.errors import OtcacheError, expected
from otcache_core.models import CallCost, Canvas, Configs
from otcache_diffusers.compat import load
from otcache_diffusers.hooks import tensors
from otcache_diffusers.recording.sampler import quiet_loading


@dataclass(frozen=True)
class Latent:
    """Latents of one image or video.

    Attributes:
        channels: numbers a latent pixel.
        height, width: in latent pixels.
        frames: in latent frames.
    """

    channels: int
    height: int
    width: int
    frames: int = 1


@dataclass(frozen=True)
class Compression:
    """How the encoder compresses a canvas.

    Args:
        channels: numbers a latent pixel.
        space: pixels on the side of a latent pixel.
        time: frames a latent frame, after the first; 0 for images only.
    """

    channels: int
    space: int
    time: int = 0

    def __call__(self, canvas: Canvas, cell: int) -> Latent:
        """Return the latents of a canvas that holds a whole number of tokens of ``cell`` latent pixels.

        Raises:
            OtcacheError: if it does not.
        """
        for name in ("height", "width"):
            side, pixels = self.space * cell, getattr(canvas, name)
            if pixels % side:
                raise OtcacheError(expected(name, pixels, f"a multiple of {side}"))
        return Latent(
            self.channels,
            canvas.height // self.space,
            canvas.width // self.space,
            self._frames(canvas.frames),
        )

    def _frames(self, frames: int) -> int:
        if self.time and (frames - 1) % self.time:
            raise OtcacheError(expected("frames", frames, f"1 above a multiple of {self.time}"))
        if not self.time and frames != 1:
            raise OtcacheError(expected("frames", frames, "1", "this model makes images."))
        return 1 + (frames - 1) // self.time if self.time else 1


Config = Mapping[str, Any]


@dataclass(frozen=True)
class Blueprint:
    """How a class of models is built and called, for any configuration.

    Args:
        denoiser: class name in diffusers.
        vae: class name in diffusers.
        compression: what the encoder does, from its configuration.
        arguments: of one denoiser call, from its configuration and the latents; called with the meta
            device as the default one.
        latents: shape the decoder takes.
        cell: latent pixels on the side of one token.
        calls_per_step: 2 if guidance makes a call for each branch.
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
            canvas: one image or video.
            configs: of ``denoiser`` and ``vae``.

        Raises:
            OtcacheError: if the canvas does not fit, or a configuration cannot be built or called.
        """
        try:
            return self._measure(canvas, configs["denoiser"], configs["vae"])
        except OtcacheError:
            raise
        except Exception as error:  # a foreign configuration may break anything
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


class Count(NamedTuple):
    """Numbers of one call.

    Attributes:
        flops: of matrix products, convolutions and attention; a multiply-add counts two.
        output_elements: numbers in the memory that keeping the output keeps alive.
    """

    flops: int
    output_elements: int


def count(call: Callable[[], Any]) -> Count:
    """Count one call of a module that lives on the meta device, by torch's flop counter.

    Element-wise work, norms and softmax are not counted. Scaled dot-product attention is: on the
    meta device it runs as its two matrix products. Masks are taken to hold no padding.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), torch.device("meta"), WholeMasks(), counter:
        output = call()
    pairs = [(leaf, leaf.untyped_storage()) for leaf in tensors(output)]
    memory = {id(storage): storage.nbytes() // leaf.itemsize for leaf, storage in pairs}
    return Count(counter.get_total_flops(), sum(memory.values()))


class WholeMasks(TorchFunctionMode):
    """Takes every entry of a Boolean tensor on the meta device as true.

    Models that put the valid tokens of a text first read values: ``if mask:``, ``x[mask]``, ``x[~mask]``.
    If all tokens are valid, the shapes are known.

    Writing into a tensor on the meta device is skipped: it does nothing, and models that fill an
    attention mask row by row (the decoder of HunyuanVideo 1.5, 110 000 rows at 720p) take a minute for it.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        first, second = (*args, None, None)[:2]
        if func is Tensor.__getitem__ and _unread(second):
            return first.flatten(0, second.dim() - 1)[: None if _whole(second) else 0]
        if func is Tensor.__setitem__ and first.is_meta:
            return None
        if func is Tensor.__bool__ and _unread(first):
            return _whole(first)
        result = func(*args, **(kwargs or {}))
        if func is Tensor.__invert__ and _unread(first):
            result.otcache_whole = not _whole(first)
        return result


def _unread(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta and value.dtype == torch.bool


def _whole(mask: Tensor) -> bool:
    return getattr(mask, "otcache_whole", True)
