"""What stands in front of a denoiser's forward."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from diffusers.hooks import ModelHook  # type: ignore[attr-defined]  # lazy export
from torch import nn

from otcache_diffusers.driver.arguments import Arguments

#: (arguments, compute) -> output
Ask = Callable[[Arguments, Callable[[], Any]], Any]


class RootHook(ModelHook):
    """Asks before the denoiser's forward.

    Args:
        ask: gives the output.
        names: of the forward's positional parameters.
    """

    def __init__(self, ask: Ask, names: Sequence[str] = ()) -> None:
        self._ask: Ask = ask
        self._names = names
        self.fn_ref: Any = None

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = self.fn_ref.original_forward
        return self._ask(Arguments(args, kwargs, self._names), lambda: forward(*args, **kwargs))

    def retire(self) -> None:
        """Let every call through: somebody may have kept the forward that asks here."""
        self._ask = _compute

    def __deepcopy__(self, memo: dict[int, Any]) -> RootHook:
        """A retired one: the copy of a denoiser is nobody's."""
        other = RootHook(_compute, self._names)
        other.fn_ref = copy.deepcopy(self.fn_ref, memo)
        return other


def _compute(arguments: Arguments, compute: Callable[[], Any]) -> Any:
    return compute()
