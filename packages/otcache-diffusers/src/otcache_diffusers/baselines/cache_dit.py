"""Run cache-dit, a library, on a pipeline and take it off without a trace."""

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
from otcache_diffusers.compat import installed as version_of
from otcache_diffusers.compat import is_pipeline
from otcache_diffusers.hooks import denoisers_of, unsupported
from otcache_diffusers.recording.quiet import quiet
from otcache_diffusers.recording.sampling import Sampler


@contextmanager
def attached(target: Any, config: Any, calibrator: Any = None) -> Iterator[None]:
    """A context in which cache-dit caches; each call of the pipeline begins with empty caches.

    While it is open ``__call__`` of the pipeline's class is cache-dit's, for every pipeline of that class.
    ``cache_dit.disable_cache`` leaves a rewritten ``forward`` and marks on the instance of the denoiser,
    and its children in another order; that is put right here, so that nothing stays but what importing
    cache-dit does.

    Args:
        target: the pipeline.
        config: a ``DBCacheConfig``.
        calibrator: a ``CalibratorConfig``, or None.
    """
    marks = _Marks(target)
    with silenced():
        try:
            library().enable_cache(target, cache_config=config, calibrator_config=calibrator)
            marks.see()
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

    def see(self) -> None:
        """Note what was added by enabling it; runs may add things of the models' own later."""
        pairs = zip(self._owners, self._before, strict=True)
        self._added = [set(own) - set(before) for own, before in pairs]

    def remove(self) -> None:
        """Take off what is still there; a list of blocks does nothing in a run, so all of its is theirs."""
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


def calls_per_step(target: Any, request: SampleRequest) -> int:
    """1 where guidance is one batch or none, 2 where its branches are calls of their own.

    Runs the first sample in full: cache-dit tells branches apart by counting calls, and would mix them
    after a single step that makes another number.

    Raises:
        ExecutionError: if the number is another, or differs from step to step.
    """
    one = replace(request, prompts=request.prompts[:1], seeds=request.seeds[:1], batch_size=1)
    with quiet(target), _counted(denoisers_of(target)[""], target.scheduler) as steps:
        Sampler(target, one)([0])
    return _steady([len(calls) for calls in steps[1:]])


@contextmanager
def _counted(denoiser: nn.Module, scheduler: Any) -> Iterator[list[list[None]]]:
    """Calls of the denoiser before each step of the scheduler, latest first; the first is open."""
    steps: list[list[None]] = [[]]
    step, own = scheduler.step, vars(scheduler)
    before = own.get("step")

    def stepped(*args: Any, **kwargs: Any) -> Any:
        steps.insert(0, [])
        return step(*args, **kwargs)

    handle = denoiser.register_forward_pre_hook(lambda module, args: steps[0].append(None))
    own["step"] = stepped
    try:
        yield steps
    finally:
        handle.remove()
        del own["step"]
        if before is not None:
            own["step"] = before


def _steady(numbers: list[int]) -> int:
    if len(set(numbers)) != 1 or numbers[0] not in (1, 2):
        found = ", ".join(map(str, sorted(set(numbers))))
        raise ExecutionError(
            f"the denoiser must be called once a step, or twice, at every step, got {found} calls: "
            "cache-dit tells the branches of guidance apart by counting them."
        )
    return numbers[0]


_SERIES = "1.5."
_INSTALL = "pip install 'otcache-diffusers[arena]'"


def installed() -> str:
    """Its version; "" where it is not installed."""
    return version_of("cache-dit")


def library() -> Any:
    """The module. Importing it replaces ``warning_once`` and ``info_once`` of ``logging.Logger``."""
    return importlib.import_module("cache_dit")


def unfit(target: Any) -> str:
    """ "" if cache-dit knows the target, else the reason why not."""
    found = installed()
    if not found:
        return f"cache-dit is not installed: {_INSTALL}"
    if not found.startswith(_SERIES):
        return f"needs cache-dit {_SERIES}x, got {found}: {_INSTALL}"
    reason = unsupported(target)
    if reason:
        return reason
    kind = type(target).__name__
    if not is_pipeline(target):
        return f"cache-dit needs a diffusers pipeline, got {kind}"
    if len(denoisers_of(target)) > 1:
        return f"{kind} has {len(denoisers_of(target))} denoisers, whose calls are not told apart"
    try:
        known = library().BlockAdapterRegister.is_supported(target)
    except ImportError as error:
        return f"cache-dit cannot be imported: {error}"
    return _too_few_blocks(target) if known else f"cache-dit knows no blocks of {kind}"


def first_blocks(target: Any) -> int:
    """How many blocks are computed at every step: a share of the shortest list, 8 at most.

    8 is cache-dit's default, meant for some sixty blocks; an eighth of the list, at least one block, is
    the same share elsewhere.
    """
    return min(8, max(1, _shortest(target) // 8))


@contextmanager
def silenced() -> Iterator[None]:
    """No advice from cache-dit's loggers; set back afterwards."""
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


def _too_few_blocks(target: Any) -> str:
    try:
        shortest = _shortest(target)
    except Exception as error:  # whatever cache-dit raises where it does not know the transformer
        return f"cache-dit does not know the denoiser of {type(target).__name__}: {error}"
    return "" if shortest > 1 else "a list of one block leaves nothing to skip"


def _shortest(target: Any) -> int:
    """Blocks in the shortest list that cache-dit would cache; looks, and patches nothing."""
    module = library()
    with silenced():
        adapter = module.BlockAdapterRegister.get_adapter(target, skip_post_init=True)
    lists = module.BlockAdapter.flatten(adapter.blocks)
    return min(map(len, lists if isinstance(lists, list) else [lists]))
