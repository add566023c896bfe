"""Call a target for a batch of samples, without progress bars."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import torch

from otcache_core.contracts.execution import SampleRequest
from otcache_core.loop import Loop
from otcache_core.loop_run import finished
from otcache_core.samples import arguments_of
from otcache_diffusers.compat import load
from otcache_diffusers.requests import LABELS, is_text, prepared, shareable, takes_any


@dataclass(frozen=True)
class Sampler:
    """Samples a target for a request.

    A loop is called as ``sample_fn(samples, seeds, num_steps, **call)``, with samples as they were given.
    A pipeline is called with lists of texts, one a sample, if samples are texts; else with the
    arguments of one sample, as they are.

    Args:
        target: a diffusers pipeline or a :class:`~otcache_core.loop.Loop`.
        request: samples, seeds, step count and further call arguments.

    Raises:
        OtcacheError: as :func:`~otcache_diffusers.requests.prepared`.
    """

    target: Any
    request: SampleRequest

    def __post_init__(self) -> None:
        prepared(self.target, self.request)

    @property
    def decodes(self) -> bool:
        """Whether the target can return images."""
        return not isinstance(self.target, Loop) and getattr(self.target, "vae", None) is not None

    def __call__(self, samples: Sequence[int], *, output_type: str = "latent") -> Any:
        """Run the samples with these indices in one call, without a bar; the same index, the same noise.

        Returns:
            What the target returns as its first output: latents, or with ``np`` images of shape
            (n, height, width, 3) in [0, 1].
        """
        prompts = [self.request.prompts[i] for i in samples]
        seeds = [self.request.seeds[i] for i in samples]
        steps, call = self.request.num_steps, dict(self.request.call)
        with quiet(self.target), torch.no_grad():
            if isinstance(self.target, Loop):
                return finished(self.target(prompts, seeds, steps, **call))
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
            own = {
                "num_inference_steps": steps,
                "generator": generators if self._shareable else generators[0],
                "output_type": output_type,
                "return_dict": False,
            }
            known = inspect.signature(type(self.target).__call__).parameters
            taken = {name: v for name, v in own.items() if name in known or takes_any(known)}
            arguments = self._arguments([arguments_of(prompt) for prompt in prompts])
            return self.target(**arguments, **taken)[0]

    @cached_property
    def _shareable(self) -> bool:
        return shareable(self.request)

    def _arguments(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the arguments of one call for these samples."""
        if not self._shareable:
            (own,) = samples
            return {**self.request.call, **_listed_label(own)}
        n = len(samples)
        shared = {
            name: [value] * n if is_text(name) and isinstance(value, str) else value
            for name, value in self.request.call.items()
        }
        return shared | {name: [sample[name] for sample in samples] for name in samples[0]}


def _listed_label(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of one sample; a class label becomes a list of one."""
    label = own.get(LABELS)
    return {**own, LABELS: [label]} if isinstance(label, Integral) else dict(own)


_MISSING = object()


@contextmanager
def quiet_loading(*names: str) -> Iterator[None]:
    """Show no bars and no advice of diffusers and transformers while loading; restore them afterwards.

    Args:
        names: of the libraries, by default both.

    Raises:
        OtcacheError: if one of them is missing or cannot be imported.
    """
    needed = names or ("diffusers", "transformers")
    libraries = [load(f"{name}.utils.logging", "loading a model") for name in needed]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in libraries]
    for log in libraries:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, bars) in zip(libraries, before, strict=True):
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


@contextmanager
def quiet(target: Any) -> Iterator[None]:
    """Show no progress bar in a pipeline's calls, whatever its settings; restore them afterwards."""
    before = getattr(target, "_progress_bar_config", _MISSING)
    if hasattr(target, "set_progress_bar_config"):
        target.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if before is not _MISSING:
            target._progress_bar_config = before
        else:
            vars(target).pop("_progress_bar_config", None)
