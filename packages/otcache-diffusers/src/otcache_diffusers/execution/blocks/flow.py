"""Where what a block returned goes to, between the blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from otcache_diffusers.hooks import tensors


class Mark(NamedTuple):
    """Something a block returned."""

    call: int  # of all block calls, in order
    leaf: int  # of the block's output


class Flow(TorchDispatchMode):
    """Passes marks from the inputs of every torch operation on to its outputs.

    Marks stick to memory, so views and writes into a buffer carry them too. Nothing is kept alive,
    and the operations are those that would run anyway.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._marks: dict[StorageWeakRef, set[Mark]] = {}
        self.read: set[Mark] = set()  # marks of values that Python code looked at

    def put(self, tensor: torch.Tensor, mark: Mark) -> None:
        """From here on this memory has this mark and no other."""
        self._marks[_memory(tensor)] = {mark}

    def of(self, tree: Any) -> set[Mark]:
        """The marks of all tensors in a tree."""
        found: set[Mark] = set()
        for tensor in tensors(tree):
            found |= self._marks.get(_memory(tensor), set())
        return found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose operations are not followed."""
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        try:
            yield
        finally:
            self.__enter__()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        marks = self.of((args, kwargs))
        if marks:
            made = tensors(output)
            for tensor in made:
                self._marks.setdefault(_memory(tensor), set()).update(marks)
            if not made:
                self.read |= marks
        return output


def _memory(tensor: torch.Tensor) -> StorageWeakRef:
    # A weak reference keeps the address of freed memory from being given to another tensor.
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]  # untyped
