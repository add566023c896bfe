"""Support diffusers 0.37 to 0.42, and no diffusers.

Nothing else in this package reads a version, or uses what diffusers does not export. A loop or a bare
module needs no diffusers, and one that cannot be imported beside this torch must not stop it: so
:func:`is_a` and :func:`is_pipeline` import nothing.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from otcache_core.errors import OtcacheError

#: The extra that brings every library below.
INSTALL = "pip install 'otcache-diffusers[pipelines]'"
UPGRADE = "pip install --upgrade 'otcache-diffusers[pipelines]'"
#: The attribute in which a module has the registry of its hooks, once it has some.
HOOKS = "_diffusers_hook"
#: Distributions by the names they are imported by, where these differ.
_DISTRIBUTIONS = {"PIL": "Pillow", "skimage": "scikit-image"}
#: What the extra brings, by the names they are imported by.
_LIBRARIES = ("diffusers", "transformers", *_DISTRIBUTIONS)


# -- installed or not ---------------------------------------------------------------------------


def installed(library: str) -> str:
    """Return the version of a distribution, "" if it is not installed; imports nothing."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


#: Its name in reasons and sources.
DIFFUSERS = f"diffusers {installed('diffusers')}".strip()


def load(target: str, purpose: str) -> Any:
    """Import a module of an optional library, or one name of it.

    Args:
        target: ``package.module`` or ``package.module:name``.
        purpose: what it is for: the first words of the error.

    Raises:
        OtcacheError: if it is missing or cannot be imported, with the line that installs it.
    """
    module, _, attribute = target.partition(":")
    try:
        found = importlib.import_module(module)
        return getattr(found, attribute) if attribute else found
    except Exception as error:  # a library that does not fit the torch beside it raises anything
        name = module.partition(".")[0]
        library = _DISTRIBUTIONS.get(name, name)
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise OtcacheError(f"{purpose} needs {library}: {INSTALL}") from error
        cause = _first_of(error)
        lines = str(cause).strip().splitlines() or ["no message"]
        raise OtcacheError(
            f"{purpose} needs {library}, and {library} {installed(library)} cannot be imported beside "
            f"torch {torch.__version__} ({type(cause).__name__}: {lines[0]}): "
            f"{UPGRADE} {_broken(cause) or library}"
        ) from error


def _first_of(error: BaseException) -> BaseException:
    """Return what was raised first; diffusers raises others from it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _broken(error: BaseException) -> str:
    """Return the library, of those that the extra brings, whose own line failed; "" if it was none."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    names = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames]
    return next((_DISTRIBUTIONS.get(n, n) for n in reversed(names) if n in _LIBRARIES), "")


# -- kinds of objects ---------------------------------------------------------------------------


def is_a(value: Any, name: str) -> bool:
    """Return whether an object is of a class of diffusers, by the class's name; imports nothing."""
    kinds = type(value).__mro__
    return any(k.__name__ == name and k.__module__.startswith("diffusers.") for k in kinds)


def is_pipeline(target: Any) -> bool:
    """Return whether an object is a pipeline of diffusers, modular or not; imports nothing."""
    return is_a(target, "DiffusionPipeline") or is_modular(target)


def is_modular(target: Any) -> bool:
    """Return whether an object is a ``ModularPipeline``, which is made of blocks; imports nothing."""
    return is_a(target, "ModularPipeline")


def pipeline_classes() -> list[type]:
    """Return the base classes of diffusers' pipelines, as far as they are imported."""
    places = {
        "DiffusionPipeline": "diffusers.pipelines.pipeline_utils",
        "ModularPipeline": "diffusers.modular_pipelines.modular_pipeline",
    }
    found = (getattr(sys.modules.get(place), name, None) for name, place in places.items())
    return [kind for kind in found if isinstance(kind, type)]


# -- modular pipelines --------------------------------------------------------------------------


def blocks_of(pipeline: Any) -> Any:
    """Return the blocks of a modular pipeline themselves; its ``blocks`` are a copy."""
    return pipeline._blocks


@contextmanager
def run_with(pipeline: Any, blocks: Any) -> Iterator[None]:
    """Let the calls of a modular pipeline run other blocks in this context."""
    before, pipeline._blocks = pipeline._blocks, blocks
    try:
        yield
    finally:
        pipeline._blocks = before


def branch_of(batch: Any) -> str:
    """Return the name that a guider gave to a batch of inputs, as ``pred_cond``; "" if it gave none."""
    return str(getattr(batch, "__guidance_identifier__", ""))


# -- hooks --------------------------------------------------------------------------------------


def hooks_of(module: nn.Module) -> Mapping[str, Any]:
    """Return the hooks of diffusers on one module by name; of most modules there are none."""
    found: Mapping[str, Any] = getattr(vars(module).get(HOOKS), "hooks", {})
    return found


def remove_hooks(module: nn.Module, names: Iterable[str]) -> None:
    """Remove hooks of one module, the outermost first; its ``forward`` stays in its ``__dict__``."""
    for name in reversed(list(names)):
        vars(module)[HOOKS].remove_hook(name, recurse=False)


def reset_hooks(module: nn.Module) -> None:
    """Empty the caches of all hooks on a module and below it."""
    hooks = importlib.import_module("diffusers.hooks")
    hooks.HookRegistry.check_if_exists_or_initialize(module).reset_stateful_hooks()


def forget_child_hooks(module: nn.Module) -> None:
    """Drop what the registry at a root remembers of those below it (since 0.40), which is stale now."""
    registry = vars(module).get(HOOKS)
    if registry is not None:
        registry._child_registries_cache = None


def unlink(module: nn.Module, patch: Any, method: Any) -> None:
    """Put a method in the place of its patch wherever a hook around it keeps what it goes around.

    accelerate keeps that on the module, diffusers in the references of the module's registry.
    """
    chain = getattr(vars(module).get(HOOKS), "_fn_refs", [])
    places = [vars(module), *(ref.__dict__ for ref in chain)]
    for known in places:
        for name, value in known.items():
            if value is patch:
                known[name] = method


# -- caches of diffusers ------------------------------------------------------------------------


def cache_config(name: str) -> Any:
    """Return the class of this name that ``enable_cache`` takes; None if this version has none."""
    return getattr(importlib.import_module("diffusers.hooks"), name, None)


def cached_blocks(denoiser: nn.Module) -> list[nn.Module]:
    """Return the blocks that diffusers' caches find, in the order of the forward pass."""
    names = importlib.import_module("diffusers.hooks._common")._ALL_TRANSFORMER_BLOCK_IDENTIFIERS
    return [
        block
        for name, child in denoiser.named_children()
        if name in names and isinstance(child, nn.ModuleList)
        for block in child
    ]


def has_cached_attention(denoiser: nn.Module) -> bool:
    """Return whether some part is attention whose outputs diffusers can keep."""
    kinds = importlib.import_module("diffusers.hooks._common")._ATTENTION_CLASSES
    return any(isinstance(module, kinds) for module in denoiser.modules())


def can_pass_over(block: nn.Module) -> bool:
    """Return whether diffusers has a layout of the inputs and outputs of a block's class."""
    helpers = importlib.import_module("diffusers.hooks._helpers")
    try:
        helpers.TransformerBlockRegistry.get(type(block))
    except ValueError:
        return False
    return True


def magnitude_hooks(denoiser: nn.Module) -> list[Any]:
    """Return the hooks of a denoiser that MagCache keeps its state in."""
    name = importlib.import_module("diffusers.hooks.mag_cache")._MAG_CACHE_LEADER_BLOCK_HOOK
    return [hooks_of(module)[name] for module in denoiser.modules() if name in hooks_of(module)]
