"""The computed outputs a run still needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from otcache_core.contracts import Storage
from otcache_diffusers.driver import Packed, tensors
from otcache_diffusers.packing import Packing


class Held(NamedTuple):
    """Bytes of the memory kept alive; memory that outputs share counts once.

    Attributes:
        on_device: where the outputs were computed.
        on_host: of those moved to the host.
    """

    on_device: int
    on_host: int


class OutputCache:
    """Outputs by branch and step.

    Kept as they are, they are never copied where torch counts writes into them. Tensors made in
    inference mode have no counter: of these a copy is kept, and given where a single output may go to
    the sampler as it is, so that it may write into what it got; several outputs are only read. What is
    packed is a copy that nobody else ever has.

    Args:
        storage: how they are kept.
    """

    def __init__(self, storage: Storage) -> None:
        self._packing = Packing(storage)
        self._held: dict[tuple[str, int], tuple[Any, list[int]]] = {}

    def put(self, branch: str, step: int, output: Any) -> None:
        """Keep an output."""
        kept = self._packing.pack(output)
        self._held[branch, step] = _apart(kept), _versions(kept)

    def get(self, branch: str, steps: Sequence[int]) -> list[Any] | None:
        """The outputs of these steps; None unless all are held."""
        held = [self._held.get((branch, step)) for step in steps]
        found = [entry[0] for entry in held if entry is not None]
        if len(found) != len(steps):
            return None
        return [_apart(found[0])] if len(found) == 1 else found

    def holds(self, output: Any) -> bool:
        """Whether this very output is kept, so that nobody may write into it."""
        return any(held is output for held, _ in self._held.values())

    def changed(self, branch: str, steps: Sequence[int]) -> bool:
        """Whether somebody wrote into one of these outputs since it was put here."""
        held = [self._held[branch, step] for step in steps]
        return any(_versions(output) != versions for output, versions in held)

    def drop(self, branch: str, steps: Sequence[int]) -> None:
        """Let go of outputs, held or not."""
        for step in steps:
            self._held.pop((branch, step), None)

    def clear(self) -> None:
        """Let go of everything."""
        self._held.clear()

    def overflowed(self) -> bool:
        """Whether an output put since this was asked last is beyond its storage; asks the device."""
        return self._packing.overflowed()

    @property
    def held(self) -> Held:
        """The bytes held now."""
        leaves = [leaf for output, _ in self._held.values() for leaf in pytree.tree_leaves(output)]
        plain = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        packed = [leaf for leaf in leaves if isinstance(leaf, Packed)]
        stayed = [leaf.codes for leaf in packed if not leaf.moved]
        return Held(
            _num_bytes([*plain, *stayed]),
            _num_bytes([leaf.codes for leaf in packed if leaf.moved]),
        )


def _apart(output: Any) -> Any:
    """The output with copies of the tensors that were made in inference mode."""
    if not any(leaf.is_inference() for leaf in tensors(output)):
        return output
    return pytree.tree_map_only(torch.Tensor, torch.clone, output)


def _num_bytes(leaves: Iterable[torch.Tensor]) -> int:
    storages = [part.untyped_storage() for leaf in leaves for part in _parts(leaf)]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def _parts(leaf: torch.Tensor) -> list[torch.Tensor]:
    """The tensors with memory in a tensor; what a collective returns is a wrapper without."""
    if not is_traceable_wrapper_subclass(leaf):
        return [leaf]
    names, _ = leaf.__tensor_flatten__()
    return [part for name in names for part in _parts(getattr(leaf, name))]


def _versions(output: Any) -> list[int]:
    """Torch's write counters; tensors made in inference mode have none."""
    leaves: list[torch.Tensor] = tensors(output)
    return [0 if leaf.is_inference() else leaf._version for leaf in leaves]
