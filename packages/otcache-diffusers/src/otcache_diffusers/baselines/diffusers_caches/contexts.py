"""The cache contexts that a pipeline enters at each step, known without running it."""

from __future__ import annotations

import inspect
from typing import Any

from otcache_core.contracts import SampleRequest


def contexts_of(target: Any, request: SampleRequest) -> tuple[str, ...]:
    """Names of the transformer calls of one step, as the pipeline tells them to diffusers' caches.

    Read off the code of the pipeline's ``__call__``: one that guides by two calls names both contexts
    there, and enters the second one only if guidance is on.

    Args:
        target: a diffusers pipeline.
        request: with the arguments of its calls.

    Returns:
        ``("cond", "uncond")`` where guidance takes two calls, ``("cond_uncond",)`` where one call takes
        both as a batch, ``("cond",)`` for one call without guidance; () if it enters no context.
    """
    code = inspect.unwrap(type(target).__call__).__code__
    if "cache_context" not in code.co_names:
        return ()
    if "cond_uncond" in code.co_consts:
        return ("cond_uncond",) if is_guided(target, request) else ("cond",)
    both = "uncond" in code.co_consts and is_guided(target, request)
    return ("cond", "uncond") if both else ("cond",)


def is_guided(target: Any, request: SampleRequest) -> bool:
    """Whether the request asks for classifier-free guidance.

    ``true_cfg_scale`` above 1 guides only where a negative prompt is given, else ``guidance_scale``
    above 1 does.
    """
    parameters = inspect.signature(type(target).__call__).parameters
    name = next((n for n in ("true_cfg_scale", "guidance_scale") if n in parameters), "")
    if not name:
        return False
    given = any(k.startswith("negative_") and v is not None for k, v in request.call.items())
    scale = float(request.call.get(name, parameters[name].default))
    return scale > 1 and (given or name == "guidance_scale")
