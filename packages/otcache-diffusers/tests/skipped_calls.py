"""Do something around the denoiser calls of skipped steps, outside whatever replaced its forward."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import nn


class AtSkippedCalls:
    """Calls ``enter`` before and ``leave`` after each denoiser call of a skipped step.

    Args:
        module: the denoiser.
        skipped: steps.
        per_step: denoiser calls of a step.
        enter, leave: called without arguments.
    """

    def __init__(
        self,
        module: nn.Module,
        skipped: Collection[int],
        per_step: int,
        enter: Callable[[], None],
        leave: Callable[[], None],
    ) -> None:
        self.calls = 0
        self._skipped, self._per_step = skipped, per_step
        self._enter, self._leave = enter, leave
        module.register_forward_pre_hook(self._begins)
        module.register_forward_hook(self._ends)

    @property
    def _inside(self) -> bool:
        return self.calls // self._per_step in self._skipped

    def _begins(self, module: Any, args: Any) -> None:
        if self._inside:
            self._enter()

    def _ends(self, module: Any, args: Any, output: Any) -> None:
        if self._inside:
            self._leave()
        self.calls += 1
