"""Run cache-dit, a library, on a pipeline: whether it can, how guidance calls the denoiser, and the context.

cache-dit replaces the ``forward`` of a denoiser's instance and the ``__call__`` of a pipeline's class;
:func:`attached` restores both.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from otcache_core.contracts import SampleRequest
from otcache_core.errors import ExecutionError
from otcache_diffusers.baselines.diffusers_caches import method_replaced
from otcache_diffusers.compat import installed as version_of
from otcache_diffusers.compat import is_modular, is_pipeline
from otcache_diffusers.hooks import denoisers_of, unsupported
from otcache_diffusers.recording.sampler import Sampler, quiet

_SERIES = "1.5."
_INSTALL = "pip install 'otcache-diffusers[baselines]'"


def library() -> Any:
    """Import cache-dit, which replaces ``warning_once`` and ``info_once`` of ``logging.Logger``."""
    return importlib.import_module("cache_dit")


def source_of(rule: str) -> str:
    """Return the library, its version and its name for the rule."""
    return f"cache-dit {version_of('cache-dit') or '(not installed)'}, {rule}"


def not_cacheable(target: Any) -> str:
    """Return "" if cache-dit knows the target, else the reason why not."""
    version = version_of("cache-dit")
    if not version:
        return f"cache-dit is not installed: {_INSTALL}"
    if not version.startswith(_SERIES):
        return f"needs cache-dit {_SERIES}x, got {version}: {_INSTALL}"
    reason = unsupported(target)
    if reason:
        return reason
    kind = type(target).__name__
    if not is_pipeline(target) or is_modular(target):
        return f"cache-dit needs a DiffusionPipeline, got {kind}"
    if len(denoisers_of(target)) > 1:
        return (
            f"{kind} has {len(denoisers_of(target))} denoisers, whose calls cannot be distinguished"
        )
    try:
        known = library().BlockAdapterRegister.is_supported(target)
    except ImportError as error:
        return f"cache-dit cannot be imported: {error}"
    return _too_few_blocks(target) if known else f"cache-dit knows no blocks of {kind}"


def _too_few_blocks(target: Any) -> str:
    try:
        shortest = _shortest(target)
    except Exception as error:  # whatever cache-dit raises if it does not know the transformer
        return f"cache-dit does not know the denoiser of {type(target).__name__}: {error}"
    return "" if shortest > 1 else "a list of one block leaves nothing to skip"


def first_blocks(target: Any) -> int:
    """Return how many blocks are computed at every step: an eighth of the shortest list, 1 to 8.

    8 is cache-dit's default, meant for some sixty blocks; an eighth of the list is the same share
    elsewhere.
    """
    return min(8, max(1, _shortest(target) // 8))


def _shortest(target: Any) -> int:
    """Count the blocks in the shortest list that cache-dit would cache; patches nothing."""
    module = library()
    with _silenced():
        adapter = module.BlockAdapterRegister.get_adapter(target, skip_post_init=True)
    lists = module.BlockAdapter.flatten(adapter.blocks)
    return min(map(len, lists if isinstance(lists, list) else [lists]))


@contextmanager
def _silenced() -> Iterator[None]:
    """Let cache-dit's loggers report errors only."""
    known = logging.root.manager.loggerDict
    loggers = [logging.getLogger(name) for name in known if name.startswith("cache_dit")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


# -- how guidance calls the denoiser ------------------------------------------------------------


def calls_per_step(target: Any, request: SampleRequest) -> int:
    """Return 1 if guidance is one batch or none, 2 if its branches are calls of their own.

    Runs the first sample in full: cache-dit distinguishes branches by counting calls, and would mix
    them after a single step that makes another number.

    Raises:
        ExecutionError: if the number is another, or differs from step to step.
    """
    steps: list[int] = [0]  # calls before each step of the scheduler, the open one last
    step = target.scheduler.step

    def stepped(*args: Any, **kwargs: Any) -> Any:
        steps.append(0)
        return step(*args, **kwargs)

    def called(module: nn.Module, args: Any) -> None:
        steps[-1] += 1

    with quiet(target), method_replaced(target.scheduler, "step", stepped):
        handle = denoisers_of(target)[""].register_forward_pre_hook(called)
        try:
            Sampler(target, one_sample(request))([0])
        finally:
            handle.remove()
    numbers = sorted(set(steps[:-1]))
    if numbers not in ([1], [2]):
        raise ExecutionError(
            "the denoiser must be called once a step, or twice, at every step, got "
            f"{', '.join(map(str, numbers))} calls: cache-dit distinguishes the branches of guidance by "
            "counting them."
        )
    return numbers[0]


def one_sample(request: SampleRequest) -> SampleRequest:
    """Return a request of the first sample alone."""
    return replace(request, prompts=request.prompts[:1], seeds=request.seeds[:1], batch_size=1)


# -- the context --------------------------------------------------------------------------------


@contextmanager
def attached(target: Any, config: Any, calibrator: Any = None) -> Iterator[None]:
    """Let cache-dit cache; each call of the pipeline begins with empty caches.

    In this context ``__call__`` of the pipeline's class is cache-dit's, for every pipeline of that
    class. ``cache_dit.disable_cache`` leaves a rewritten ``forward`` and marks on the instance of the
    denoiser, and its children in another order; both are restored, so that nothing remains but what
    importing cache-dit does.

    Args:
        target: the pipeline.
        config: a ``DBCacheConfig``.
        calibrator: a ``CalibratorConfig``, or None.
    """
    marks = _Marks(target)
    with _silenced():
        try:
            library().enable_cache(target, cache_config=config, calibrator_config=calibrator)
            marks.record()
            yield
        finally:
            library().disable_cache(target)
            marks.remove()


class _Marks:
    """What cache-dit puts on the instances, and on the class."""

    def __init__(self, target: Any) -> None:
        denoiser = denoisers_of(target)[""]
        modules = list(denoiser.modules())
        self._owners = [vars(target), *map(vars, modules)]
        self._lists = [False, *(isinstance(module, nn.ModuleList) for module in modules)]
        self._before = [dict(own) for own in self._owners]
        self._added: list[set[str]] = [set() for _ in self._owners]
        self._children, self._order = denoiser._modules, dict(denoiser._modules)
        self._class, self._called = type(target), "__call__" in vars(type(target))

    def record(self) -> None:
        """Record what enabling it added; runs may later add attributes of the models' own."""
        pairs = zip(self._owners, self._before, strict=True)
        self._added = [set(own) - set(before) for own, before in pairs]

    def remove(self) -> None:
        """Remove what remains; a run adds nothing to a list of blocks, so all of its is cache-dit's."""
        every = zip(self._owners, self._before, self._added, self._lists, strict=True)
        for own, before, added, listed in every:
            for name in set(own) - set(before) if listed else added & set(own):
                del own[name]
            if "forward" in before:
                own["forward"] = before["forward"]
        # Its forward sets the block lists anew at every call, which puts them last among the children.
        self._children.clear()
        self._children.update(self._order)
        if not self._called and "__call__" in vars(self._class):
            delattr(self._class, "__call__")
