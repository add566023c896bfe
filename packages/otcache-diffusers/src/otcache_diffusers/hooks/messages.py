"""What is said where a target or its parts are taken already."""

from __future__ import annotations

from typing import Any

from torch import nn


def taken(target: Any, holder: Any) -> str:
    """Say why a target cannot be attached to: it is already, or the pipeline whose scheduler it has is.

    Args:
        target: what was to be accelerated or recorded.
        holder: the target that is attached to.
    """
    kind, other = type(target).__name__, type(holder).__name__
    if target is holder:
        return (
            f"{kind} is already accelerated or recorded by otcache: leave that context first, or call "
            "handle.remove(); otcache.enabled(pipe).remove() does it where the handle or the context is "
            "out of reach."
        )
    return (
        f"{kind} has the scheduler of the {other} that is already accelerated or recorded by otcache, and "
        "by that its runs are too: leave it at that, or give this one a scheduler of its own first, "
        "pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)."
    )


def module_taken(module: nn.Module, holder: Any) -> str:
    """Say why a module cannot be attached to: nothing tells whose call is whose.

    Args:
        module: what was to be attached to.
        holder: the target that has it.
    """
    return (
        f"{type(module).__name__} is already accelerated or recorded by otcache, by way of a "
        f"{type(holder).__name__}, and their calls cannot be told apart: leave that context first or call "
        "handle.remove(), or load the model twice."
    )
