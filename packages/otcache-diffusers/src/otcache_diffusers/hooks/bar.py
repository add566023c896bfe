"""A pipeline's progress bar: it closes when the denoising loop is left, whichever way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class Bar:
    """Stands for a progress bar and tells when its loop is over.

    Pipelines enter the bar as a context or iterate over it. Of one that does neither nothing is told.

    Args:
        bar: the real one, to which everything else goes.
        over: called once, with whether the loop was left without an exception, or a ``break``.
    """

    def __init__(self, bar: Any, over: Callable[[bool], None]) -> None:
        self._bar, self._over = bar, over

    def __enter__(self) -> Any:
        return self._bar.__enter__()

    def __exit__(self, *error: Any) -> Any:
        self._end(error[0] is None)
        return self._bar.__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        whole = False
        try:
            yield from self._bar
            whole = True
        finally:
            self._end(whole)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)

    def __len__(self) -> int:
        return len(self._bar)

    def _end(self, whole: bool) -> None:
        over, self._over = self._over, _nothing
        over(whole)


def _nothing(whole: bool) -> None:
    """The end was told already."""
