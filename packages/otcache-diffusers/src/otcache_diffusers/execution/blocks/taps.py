"""Look at the calls of blocks, on the instances, while one denoiser call runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_MISSING = object()

#: (block, its own call, positional arguments, named arguments) -> what the caller gets
Around = Callable[[nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def tapped(blocks: Iterable[nn.Module], around: Around) -> Iterator[None]:
    """A context in which every call of these blocks goes through ``around``.

    Whatever wraps a block already (hooks, offloading, its compiled call) is inside. On exit, also by
    exception, each block's ``__dict__`` is as it was.
    """
    before: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for block in dict.fromkeys(blocks):
            compiled = getattr(block, "_compiled_call_impl", None) is not None
            name = "_compiled_call_impl" if compiled else "forward"
            before.append((block.__dict__, name, block.__dict__.get(name, _MISSING)))
            block.__dict__[name] = _tap(block, getattr(block, name), around)
        yield
    finally:
        for own, name, value in before:
            if value is _MISSING:
                del own[name]
            else:
                own[name] = value


def _tap(block: nn.Module, call: Callable[..., Any], around: Around) -> Callable[..., Any]:
    @functools.wraps(call)
    def called(*args: Any, **kwargs: Any) -> Any:
        return around(block, call, args, kwargs)

    return called
