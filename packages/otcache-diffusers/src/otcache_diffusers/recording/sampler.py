"""Call a target for a batch of samples, without progress bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import torch

from otcache_core.contracts.execution import SampleRequest
from otcache_core.loop import Loop
from otcache_core.loop_run import finished
from otcache_core.samples import arguments_of
from otcache_diffusers.compat import blocks_of, is_modular, load, run_with
from otcache_diffusers.hooks.attach import DENOISERS
from otcache_diffusers.hooks.modular import call_parameters, loops_of, without_decoding
from otcache_diffusers.requests import LABELS, is_text, prepared, shareable, takes_any

#: What modular pipelines call the images and videos that they make, and the state that they decode.
IMAGES = ("images", "videos", "image", "video")
LATENTS = "latents"


@dataclass(frozen=True)
class Sampler:
    """Samples a target for a request.

    A loop is called as ``sample_fn(samples, seeds, num_steps, **call)``, with samples as they were given.
    A pipeline is called with lists of texts, one per sample, if samples are texts; else with the
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
        if is_modular(self.target):
            return bool(_made_by(self.target))
        return not isinstance(self.target, Loop) and getattr(self.target, "vae", None) is not None

    def __call__(self, samples: Sequence[int], *, output_type: str = "latent") -> Any:
        """Run the samples with these indices in one call, without a bar; the same index, the same noise.

        Returns:
            What the target returns as its first output: latents, or with ``np`` images of shape
            (n, height, width, 3) in [0, 1]. Of a modular pipeline the images, or the latents without
            decoding them.
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
            arguments = self._arguments([arguments_of(prompt) for prompt in prompts])
            if is_modular(self.target):
                return _run_blocks(self.target, arguments, own)
            known = call_parameters(self.target)
            taken = {name: v for name, v in own.items() if name in known or takes_any(known)}
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


def _made_by(pipeline: Any) -> list[str]:
    """Return the names of the images and videos that a modular pipeline makes."""
    outputs = {made.name for made in blocks_of(pipeline).outputs}
    return [name for name in IMAGES if name in outputs]


def _run_blocks(pipeline: Any, given: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    """Call a modular pipeline; return what it decodes, or its latents.

    Args:
        pipeline: the pipeline.
        given: arguments of its blocks, of which those that are not run take none.
        own: arguments that it may not take.
    """
    blocks, made = blocks_of(pipeline), _made_by(pipeline)
    wanted = made[0] if made and own["output_type"] != "latent" else LATENTS
    if wanted == LATENTS:
        blocks = without_decoding(pipeline, DENOISERS)
    with run_with(pipeline, blocks):
        known = call_parameters(pipeline)
        arguments = {n: v for n, v in {**own, **given}.items() if n in known}
        if "output_type" in arguments:  # decoded after all
            arguments["output_type"] = "np"
        return pipeline(**arguments, output=wanted)


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
    with ExitStack() as stack:
        for owner in loops_of(target) if is_modular(target) else [target]:
            stack.enter_context(_quiet(owner))
        yield


@contextmanager
def _quiet(owner: Any) -> Iterator[None]:
    before = getattr(owner, "_progress_bar_config", _MISSING)
    if hasattr(owner, "set_progress_bar_config"):
        owner.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if before is not _MISSING:
            owner._progress_bar_config = before
        else:
            vars(owner).pop("_progress_bar_config", None)
