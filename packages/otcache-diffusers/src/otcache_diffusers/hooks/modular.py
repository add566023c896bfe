"""What modular pipelines of diffusers add to others: inputs of blocks, loops among them, and guiders.

A guider makes the inputs of each branch (``prepare_inputs``) and is notified before each denoiser call of
them (``prepare_models``), so it names the call's branch where the pipeline has no ``cache_context``.
Some pipelines that are not modular have one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from inspect import Parameter, signature
from typing import Any

from otcache_diffusers.compat import blocks_of, branch_of, is_a, is_modular, is_pipeline
from otcache_diffusers.hooks.patches import MethodPatches, WeakMethodAround

#: What guiders' names of branches begin with; other pipelines call these branches ``cond`` and ``uncond``.
_PREFIX = "pred_"
#: The methods of a guider that give the inputs of a step's branches.
_PREPARES = ("prepare_inputs", "prepare_inputs_from_block_state")


def call_parameters(pipeline: Any) -> Mapping[str, Parameter]:
    """Return the parameters of a pipeline's call by name, without ``self``.

    Where a class's call passes all others on (``**kwargs``), as those of OpenVINO's pipelines do, also those
    of its bases' calls. Those of a modular pipeline are its blocks' inputs, and none of them is required:
    what one block needs may be made by another.
    """
    if not is_modular(pipeline):
        return _named_by_calls(type(pipeline))
    return {
        name: Parameter(name, Parameter.KEYWORD_ONLY, default=default)
        for name, default in _inputs_of(blocks_of(pipeline))
    }


def _named_by_calls(kind: type) -> dict[str, Parameter]:
    """Return the parameters of a class's call, and of its bases' as far as it passes any on."""
    found: dict[str, Parameter] = {}
    for base in kind.__mro__:
        if "__call__" in vars(base):
            known = dict(list(signature(vars(base)["__call__"]).parameters.items())[1:])
            found = known | found
            if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
                break
    return found


def _inputs_of(blocks: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and default of each input, and the name of each group of inputs."""
    for given in blocks.inputs:
        for name in (given.name, given.kwargs_type):
            if name and name.isidentifier():
                yield name, given.default


def loops_of(pipeline: Any) -> list[Any]:
    """Return the blocks of a modular pipeline that are loops, which have its progress bars."""
    return [block for block in _walk(blocks_of(pipeline)) if hasattr(block, "progress_bar")]


def _walk(blocks: Any) -> Iterator[Any]:
    yield blocks
    for block in (getattr(blocks, "sub_blocks", None) or {}).values():
        yield from _walk(block)


def without_decoding(pipeline: Any, denoisers: Collection[str]) -> Any:
    """Return a modular pipeline's blocks without those after the last one that has a denoiser.

    The blocks that stay are the pipeline's own. If none can be omitted, its blocks are returned.

    Args:
        pipeline: whose blocks follow one another.
        denoisers: names of components.
    """
    blocks = blocks_of(pipeline)
    if not is_a(blocks, "SequentialPipelineBlocks"):
        return blocks
    parts = list(blocks.sub_blocks.items())
    while parts and not {spec.name for spec in parts[-1][1].expected_components} & set(denoisers):
        parts.pop()
    if len(parts) in (0, len(blocks.sub_blocks)):
        return blocks
    kept = copy.copy(blocks)
    kept.sub_blocks = type(blocks.sub_blocks)(parts)
    return kept


def guiders_of(target: Any) -> dict[str, Any]:
    """Return the guiders of a pipeline by name, modular or not; none of another target."""
    parts = vars(target).items() if is_pipeline(target) else ()
    return {name: part for name, part in parts if is_a(part, "BaseGuidance")}


class GuidedBranches:
    """Name the branch of a denoiser call as the guiders of a pipeline do, while entered.

    The names of a step are those of all guiders, in the order in which they give them: two guiders of one
    denoiser, of video and audio, share its calls.

    Args:
        target: without guiders none of its calls is named.

    Attributes:
        name: of the call that is being made; "" outside those that a guider prepares.
    """

    def __init__(self, target: Any) -> None:
        self._target = target
        self._names: list[str] = []
        self._calls, self.name = 0, ""
        self._patched: list[Any] = []
        self._stack = ExitStack()

    def __enter__(self) -> GuidedBranches:
        self.refresh()
        return self

    def __exit__(self, *error: object) -> None:
        self._patched = []
        self._stack.close()

    def named(self, context: str) -> str:
        """Return the branch of the call that is being made.

        Args:
            context: name of its ``cache_context``, which is its branch outside of guiders' calls.
        """
        return (self.name or context).removeprefix(_PREFIX)

    def refresh(self) -> None:
        """Follow the guiders that the target has now; used before each run."""
        self._names, self._calls, self.name = [], 0, ""
        guiders = list(guiders_of(self._target).values())
        if [*map(id, guiders)] == [*map(id, self._patched)]:
            return
        self.__exit__()
        for guider in guiders:
            self._stack.enter_context(MethodPatches(guider, self._patches(guider)))
        self._patched = guiders

    def _patches(self, guider: Any) -> dict[str, Callable[..., Any]]:
        wanted = dict.fromkeys(_PREPARES, self._inputs)
        wanted |= {"prepare_models": self._call, "cleanup_models": self._called}
        return {n: WeakMethodAround(around) for n, around in wanted.items() if hasattr(guider, n)}

    def _inputs(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        batches = original(*args, **kwargs)
        if self._calls:  # of the step before
            self._names, self._calls = [], 0
        names = dict.fromkeys(map(branch_of, batches))
        self._names += [name for name in names if name not in self._names]
        return batches

    def _call(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        at, self._calls = self._calls, self._calls + 1
        self.name = self._names[at] if at < len(self._names) else ""
        return original(*args, **kwargs)

    def _called(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.name = ""
        return original(*args, **kwargs)
