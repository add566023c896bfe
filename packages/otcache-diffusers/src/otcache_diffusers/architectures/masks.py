"""Masks on the meta device, where no value can be read or written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class WholeMasks(TorchFunctionMode):
    """Answers for a Boolean tensor on the meta device that every entry is true.

    Models that put the valid tokens of a text first ask for values: ``if mask:``, ``x[mask]``,
    ``x[~mask]``. Where all tokens are valid, shapes are known again.

    Writing into a tensor on the meta device is left out: it does nothing, and models that fill an
    attention mask row by row (the decoder of HunyuanVideo 1.5, 110 000 rows at 720p) take a minute for it.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        first, second = (*args, None, None)[:2]
        if func is torch.Tensor.__getitem__ and _unread(second):
            return first.flatten(0, second.dim() - 1)[: None if _whole(second) else 0]
        if func is torch.Tensor.__setitem__ and first.is_meta:
            return None
        if func is torch.Tensor.__bool__ and _unread(first):
            return _whole(first)
        result = func(*args, **(kwargs or {}))
        if func is torch.Tensor.__invert__ and _unread(first):
            result.otcache_whole = not _whole(first)
        return result


def _unread(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_meta and value.dtype == torch.bool


def _whole(mask: torch.Tensor) -> bool:
    return getattr(mask, "otcache_whole", True)
