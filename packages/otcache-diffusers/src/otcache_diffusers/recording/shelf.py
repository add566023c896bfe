"""Tensors put away on the disk and fetched one at a time."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from otcache_core.storage.recordings import unwritable
from otcache_diffusers.hooks.packed import StandIn
from otcache_diffusers.hooks.tree import flatten, unflatten


class Shelf:
    """A temporary file of tensors, gone when neither it nor anything on it is needed.

    Args:
        folder: where the file is made.

    Raises:
        FileError: if no file can be made there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._end = folder, 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, prefix="otcache-", suffix=".rows")  # noqa: SIM115  # lives as long as this object
        except OSError as error:
            raise unwritable(folder, error) from error

    def another(self) -> Shelf:
        """An empty one in the same folder."""
        return Shelf(self._folder)

    def put(self, tree: Any) -> Any:
        """Put the tensors of a tree away; :func:`loaded` gives them back, bit for bit.

        Raises:
            FileError: if the disk is full.
        """
        leaves, form = flatten(tree)
        away = [self._put(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return unflatten(away, form)

    def fetch(self, at: int, into: torch.Tensor) -> None:
        """Read the bytes from ``at`` on into a contiguous tensor on the host."""
        self._file.seek(at)
        self._file.readinto(_bytes(into))

    def _put(self, leaf: torch.Tensor) -> Shelved:
        data = _bytes(leaf.detach().cpu().contiguous())
        try:
            self._file.seek(self._end)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise unwritable(self._folder, error) from error
        found = Shelved(self, self._end, leaf.shape, leaf.dtype, leaf.device)
        self._end += len(data)
        return found


@dataclass(frozen=True, eq=False)
class Shelved(StandIn):
    """A tensor on a shelf."""

    shelf: Shelf
    at: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def load(self) -> torch.Tensor:
        """A fresh copy, on the device that the tensor came from."""
        made = torch.empty(self.shape, dtype=self.dtype)
        self.shelf.fetch(self.at, made)
        return made.to(self.device)

    def columns(self, wanted: slice) -> torch.Tensor:
        """Some columns of a tensor of two dimensions, on the host, without reading the others."""
        rows, width = self.shape
        made = torch.empty(rows, wanted.stop - wanted.start, dtype=self.dtype)
        for n, row in enumerate(made):
            self.shelf.fetch(self.at + self.dtype.itemsize * (n * width + wanted.start), row)
        return made


def loaded(tree: Any) -> Any:
    """A tree with what is on a shelf fetched; tensors in memory stay as they are."""
    leaves, form = flatten(tree)
    if not any(isinstance(leaf, Shelved) for leaf in leaves):
        return tree
    return unflatten([leaf.load() if isinstance(leaf, Shelved) else leaf for leaf in leaves], form)


def _bytes(x: torch.Tensor) -> memoryview:
    return x.reshape(-1).view(torch.uint8).numpy().data
