"""What a family builder gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import nn

#: Sampler steps of a family's run.
N = 6


@dataclass
class Case:
    """A tiny pipeline, the arguments of its call, and the branches it should show.

    Attributes:
        pipe: random weights, no text encoder where the pipeline takes embeddings.
        call: named arguments, without generator and number of steps.
        branches: in the order of their calls within a step; one name where guidance is one batch.
        denoiser: name of the pipeline's attribute.
        asked: ``num_inference_steps`` that gives these sampler steps.
        output_type: what the pipeline returns without decoding; None where it takes none.
        steps: sampler steps of the run.
        notes: what the report says although nothing is wrong.
        layer: an inner layer that runs once a forward; the first linear one where not given.
        others: those of further denoisers, which take turns with it; a step calls one of them.
    """

    pipe: Any
    call: dict[str, Any]
    branches: tuple[str, ...]
    denoiser: str = "transformer"
    asked: int = N
    output_type: str | None = "latent"
    steps: int = N
    layer: str = ""
    notes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.pipe.set_progress_bar_config(disable=True)
        for module in self.modules:
            module.eval()

    @property
    def module(self) -> nn.Module:
        """The denoiser; of several the first."""
        return self.modules[0]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All denoisers."""
        return tuple(getattr(self.pipe, name) for name in (self.denoiser, *self.others))

    @property
    def reuses_noise(self) -> bool:
        """Whether a skipped step reuses the noise in a prediction, not the prediction itself."""
        velocity = self.pipe.scheduler.config.get("prediction_type") == "v_prediction"
        return velocity and not self.notes

    @property
    def inner(self) -> tuple[nn.Module, ...]:
        """A layer inside each denoiser, where nothing of ours reaches."""
        if self.layer:
            return tuple(module.get_submodule(self.layer) for module in self.modules)
        linear = (
            (m for m in module.modules() if isinstance(m, nn.Linear)) for module in self.modules
        )
        return tuple(map(next, linear))

    def __call__(self) -> torch.Tensor:
        """One run; always from the same noise."""
        call = {"generator": torch.Generator().manual_seed(0), "num_inference_steps": self.asked}
        if self.output_type is not None:
            call["output_type"] = self.output_type
        with torch.no_grad():
            return torch.as_tensor(self.pipe(**self.call, **call)[0])


@dataclass(frozen=True)
class Family:
    """One row of docs/coverage.md.

    Attributes:
        name: as people say it.
        pipeline: class name in diffusers.
        build: makes a case; the same one every time.
        asked: an argument of the pipeline's call that its branches come from; "" where there is none.
    """

    name: str
    pipeline: str
    build: Callable[[], Case]
    asked: str = ""

    @property
    def reason(self) -> str:
        """Why this family cannot be built here, "" where it can."""
        kind = getattr(diffusers, self.pipeline, None)
        if kind is None:
            return f"diffusers {diffusers.__version__} has no {self.pipeline}"
        if self.asked and self.asked not in inspect.signature(kind.__call__).parameters:
            return f"{self.pipeline} of diffusers {diffusers.__version__} takes no {self.asked}"
        return ""
