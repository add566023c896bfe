"""One sampler of one library: how its loop is made, and what is expected of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import otcache


@dataclass(frozen=True)
class Case:
    """A row of docs/foreign.md.

    Args:
        library: the distribution's name.
        sampler: what the row is called.
        make: returns the loop; its source is shown in the document.
        arguments: given to ``make``.
        steps: the number asked of the sampler.
        fewer: whether the sampler runs on fewer steps of the same denoiser.
        refused: whether calibration should say that it cannot.
        note: what a reader should know of the row.
    """

    library: str
    sampler: str
    make: Callable[..., otcache.Loop]
    arguments: tuple[Any, ...] = ()
    steps: int = 24
    fewer: bool = True
    refused: bool = False
    note: str = ""

    @property
    def name(self) -> str:
        """The row's name, as a file's."""
        kept = (c if c.isalnum() else "-" for c in f"{self.library} {self.sampler}")
        return "".join(kept)

    def loop(self) -> otcache.Loop:
        """Return a fresh loop."""
        return self.make(*self.arguments)

    def source(self) -> str:
        """Return the lines a user writes."""
        return inspect.getsource(self.make)
