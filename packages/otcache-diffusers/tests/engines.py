"""Stand-ins for denoisers that are objects of engines and no modules, as optimum's pipelines have."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import numpy as np
import tiny
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionXLPipeline
from torch import nn

SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
}


class Session:
    """Computes what cannot be looked into: a slot is not searched for modules."""

    __slots__ = ("_buffers", "_net", "fails_at", "runs")

    def __init__(self, net: nn.Module) -> None:
        self._net, self.runs, self.fails_at = net, 0, -1
        self._buffers: list[np.ndarray] = []

    def run(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Return the output in memory that the run after the next uses again."""
        self.runs += 1
        if self.runs == self.fails_at:
            raise RuntimeError("the engine broke")
        with torch.no_grad():
            made = self._net(*args, **kwargs, return_dict=False)[0].numpy()
        if not self._buffers or self._buffers[0].shape != made.shape:
            self._buffers = [np.empty_like(made), np.empty_like(made)]
        buffer = self._buffers[self.runs % 2]
        np.copyto(buffer, made)
        return buffer


class Engine:
    """A denoiser as optimum's: ``__call__`` goes to ``forward``, which runs a session.

    Args:
        net: a module that computes the same.
        over: write the output over the state, as ONNX Runtime with IO binding does.
    """

    def __init__(self, net: nn.Module, over: bool = False) -> None:
        self.session, self.over = Session(net), over
        self.config: Any = net.config
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.parent: Any = None
        self.context = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def forward(self, sample: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("return_dict", None)
        made = torch.from_numpy(self.session.run(sample, timestep, *args, **kwargs))
        return (sample.copy_(made) if self.over else made,)


class NamedEngine(Engine):
    """A transformer whose pipeline names the branches of its calls."""

    def forward(self, **kwargs: Any) -> Any:
        kwargs.pop("return_dict", None)
        return (torch.from_numpy(self.session.run(**kwargs)),)

    @contextmanager
    def cache_context(self, name: str) -> Any:
        self.context = name
        yield
        self.context = ""


def xl(prediction: str = "epsilon") -> tiny.Case:
    """Return Stable Diffusion XL in torch, by DDIM: its states are what the denoiser is given."""
    return tiny.sdxl(DDIMScheduler(prediction_type=prediction, **SCHEDULER))


def engine_of(case: tiny.Case, over: bool = False) -> Engine:
    """Put an engine in the place of a pipeline's module, and return it."""
    kind = NamedEngine if hasattr(case.pipe, "transformer") else Engine
    engine = kind(case.denoiser, over)
    if kind is Engine:
        engine.add_embedding = case.denoiser.add_embedding  # type: ignore[attr-defined]  # read by the pipeline
    case.pipe.register_modules(**{"transformer" if kind is NamedEngine else "unet": engine})
    engine.parent = case.pipe
    return engine


class PassingPipeline(StableDiffusionXLPipeline):
    """Passes arguments on unnamed, as OpenVINO's pipelines do."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class ArrayEngine:
    """Takes and gives numpy arrays in a list, by name only, and has no configuration."""

    def __init__(self, net: nn.Module) -> None:
        self.model = Session(net)

    def __call__(self, **kwargs: np.ndarray) -> list[np.ndarray]:
        return [self.model.run(*map(torch.from_numpy, kwargs.values()))]


class ArrayPipeline(DiffusionPipeline):
    """Samples with numpy arrays, as diffusers' ONNX pipelines do."""

    def __init__(self, unet: ArrayEngine, scheduler: DDIMScheduler) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def __call__(self, num_inference_steps: int, seed: int = 0) -> np.ndarray:
        latents = tiny.noise(1, 4, 8, 8, seed=seed).numpy()
        text = tiny.noise(1, 5, 16).numpy()
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.progress_bar(self.scheduler.timesteps):
            time = np.array([t], np.int64)
            noise = self.unet(sample=latents, timestep=time, encoder_hidden_states=text)[0]
            step = self.scheduler.step(torch.from_numpy(noise), t, torch.from_numpy(latents))
            latents = step.prev_sample.numpy()
        return latents
