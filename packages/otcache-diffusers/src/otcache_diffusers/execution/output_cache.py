"""The computed outputs that a run still needs, as the cache storage specifies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from otcache_core.contracts import CacheStorage
from otcache_diffusers.hooks import Packed, tensors
from otcache_diffusers.hooks.trees import (
    Extent,
    Form,
    examine,
    extents,
    flatten,
    is_external,
    num_bytes,
    overlap,
    unflatten,
)

APPEARED = "branch {branch!r} appeared or changed its shape during a run: computed."
WRITTEN = (
    "the sampler writes into the denoiser's outputs, or shares their memory with numpy: they are copied "
    "from here on, and the steps that needed one of before were computed."
)
SHARED = (
    "the denoiser returns its outputs in memory it uses again (as CUDA graphs and bound buffers do): "
    "they are copied from here on, and the steps that needed one of before were computed."
)
RESHAPED = (
    "the outputs of branch {branch!r} changed their structure or shape during a run: the steps that "
    "needed one of before were computed."
)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Held(NamedTuple):
    """Bytes of the memory kept alive; memory that outputs share counts once.

    Attributes:
        on_device: where the outputs were computed.
        on_host: of those moved to the host.
    """

    on_device: int
    on_host: int


@dataclass(eq=False)
class _Entry:
    """One output.

    Attributes:
        leaves: as they are kept.
        form: of the tree; containers are made anew, as the receiver may put something else in.
        frame: form and shapes, equal wherever outputs can be combined.
        borrowed: where in memory the leaves are that are not copies.
        copies: whether a copy is given if the output is returned alone.
        versions: of the leaves (:func:`_version`).
    """

    leaves: list[Any]
    form: Form
    frame: tuple[Form, list[torch.Size]]
    borrowed: list[Extent]
    copies: bool
    versions: list[tuple[int, bool]] = field(init=False)

    def __post_init__(self) -> None:
        self.versions = self.versions_now()

    def versions_now(self) -> list[tuple[int, bool]]:
        """Return what changes if a leaf is written into, or may be from now on."""
        return [_version(leaf) for leaf in self.leaves if isinstance(leaf, torch.Tensor)]

    def copied(self) -> _Entry:
        """Return the same in memory of its own, unless it was written into already."""
        if not self.borrowed or self.versions != self.versions_now():
            return self
        return _Entry([_copied(leaf) for leaf in self.leaves], self.form, self.frame, [], True)

    def tree(self, alone: bool) -> Any:
        """Return the output."""
        copy = alone and self.copies
        leaves = [_copied(leaf) if copy else leaf for leaf in self.leaves]
        return unflatten(leaves, self.form)


class OutputCache:
    """Outputs by branch and step.

    Kept as they are, they are never copied if torch alone writes into them, and counts it. Copies are
    kept of tensors in memory of other owners (a numpy array's, an inference engine's), and of those made
    in inference mode, which have no counter; of these a copy is also given if a single output may go
    to the sampler as it is, so that it may write into what it got; several outputs are only read. What is
    packed is a copy that has no other owner.

    Writes that torch does not count, or that the sampler makes, are seen when they have
    happened: by an output in the memory of one that is held (which is not free, so no other tensor can
    be there by chance), by the counters, or by a numpy array made of one. What was overwritten is lost
    for this run; the others, and from then on every output, are copied.

    Args:
        storage: how they are kept.
    """

    def __init__(self, storage: CacheStorage) -> None:
        self._packing = Packing(storage)
        self._held: dict[tuple[str, int], _Entry] = {}
        self._lost: dict[tuple[str, int], str] = {}
        self._copies = False

    def put(self, branch: str, step: int, output: Any) -> None:
        """Keep an output.

        Raises:
            ExecutionError: if there is no tensor in it, or something in it cannot be opened.
        """
        examine(output)
        leaves, form = flatten(output)
        plain = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        frame = form, [leaf.shape for leaf in plain]
        others = [key for key, one in self._held.items() if key[0] == branch and one.frame != frame]
        for key in others:  # they cannot be combined with this one
            self._lose(key, RESHAPED)
        kept = [self._kept(leaf) for leaf in leaves]
        same = [one for one, leaf in zip(kept, leaves, strict=True) if one is leaf]
        borrowed = extents(leaf for leaf in same if isinstance(leaf, torch.Tensor))
        copies = self._copies or any(leaf.is_inference() for leaf in plain)
        self._held[branch, step] = _Entry(kept, form, frame, borrowed, copies)

    def notice(self, output: Any) -> None:
        """See whether a computed output, kept or not, was written over one that is held."""
        if not self._held:
            return
        written = extents(tensors(output))
        over = [key for key, entry in self._held.items() if overlap(entry.borrowed, written)]
        for key in over:
            self._lose(key, SHARED)
        if over:
            self._copies = True
            self._held = {key: entry.copied() for key, entry in self._held.items()}

    def has(self, branch: str, steps: Sequence[int]) -> bool:
        """Return whether the outputs of all these steps are held, as they were put here."""
        held = all((branch, step) in self._held for step in steps)
        return held and not self._written(branch, steps)

    def get(self, branch: str, steps: Sequence[int]) -> list[Any] | None:
        """Return the outputs of these steps; None unless all are held, as they were put here."""
        if not self.has(branch, steps):
            return None
        return [self._held[branch, step].tree(alone=len(steps) == 1) for step in steps]

    def why_not(self, branch: str, steps: Sequence[int]) -> str:
        """Say why there are no outputs of these steps, and release what was written into."""
        for step in self._written(branch, steps):
            self._lose((branch, step), WRITTEN)
            self._copies = True
        reasons = [self._lost[branch, step] for step in steps if (branch, step) in self._lost]
        return next(iter(reasons), APPEARED).format(branch=branch)

    def holds(self, output: Any) -> bool:
        """Return whether a tensor of this output is kept, so that nothing may be written into it."""
        kept = {id(leaf) for entry in self._held.values() for leaf in entry.leaves}
        return any(id(leaf) in kept for leaf in tensors(output))

    def drop(self, branch: str, steps: Sequence[int]) -> None:
        """Release outputs, held or not."""
        for step in steps:
            self._held.pop((branch, step), None)

    def clear(self) -> None:
        """Release everything; what is known of the denoiser stays."""
        self._held.clear()
        self._lost.clear()

    def overflowed(self) -> bool:
        """Return whether an output put since the last call is beyond its storage; synchronizes."""
        return self._packing.overflowed()

    @property
    def held(self) -> Held:
        """The bytes held now."""
        leaves = [leaf for entry in self._held.values() for leaf in entry.leaves]
        plain = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        packed = [leaf for leaf in leaves if isinstance(leaf, Packed)]
        stayed = [leaf.codes for leaf in packed if not leaf.moved]
        return Held(
            num_bytes([*plain, *stayed]), num_bytes([leaf.codes for leaf in packed if leaf.moved])
        )

    def _kept(self, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        kept = self._packing.pack(leaf)
        if kept is leaf and (self._copies or leaf.is_inference() or is_external(leaf)):
            return leaf.clone()
        return kept

    def _written(self, branch: str, steps: Sequence[int]) -> list[int]:
        """Return the steps whose outputs were written into since they were put here."""
        held = [(step, self._held.get((branch, step))) for step in steps]
        return [step for step, one in held if one and one.versions != one.versions_now()]

    def _lose(self, key: tuple[str, int], reason: str) -> None:
        del self._held[key]
        self._lost[key] = reason


def _version(leaf: torch.Tensor) -> tuple[int, bool]:
    """Return torch's write counter, which inference tensors lack, and whether numpy has the memory too."""
    return 0 if leaf.is_inference() else leaf._version, is_external(leaf)


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


class Packing:
    """Pack tensors that are wider than the storage, or elsewhere.

    Nothing waits for a CUDA device: its copies to pinned memory and back keep their order on the stream.

    Args:
        storage: what is wanted.
    """

    def __init__(self, storage: CacheStorage) -> None:
        self._storage = storage
        self._beyond: list[torch.Tensor] = []

    def pack(self, leaf: torch.Tensor) -> torch.Tensor | Packed:
        """Return a tensor as it is kept; the very tensor if there is nothing to do."""
        dtype = self._narrowed(leaf.dtype)
        moves = self._storage.device is not None and leaf.device.type != self._storage.device
        if dtype == leaf.dtype and not moves:
            return leaf
        codes = leaf.to(dtype)
        if dtype == torch.float16 != leaf.dtype:
            self._beyond.append(codes.isinf().any())
        return Packed(_on_host(codes) if moves else codes, leaf.dtype, leaf.device)

    def overflowed(self) -> bool:
        """Return whether anything packed since the last call is infinite; synchronizes."""
        beyond, self._beyond = self._beyond, []
        return any(bool(flag) for flag in beyond)

    def _narrowed(self, dtype: torch.dtype) -> torch.dtype:
        if self._storage.dtype is None or not dtype.is_floating_point:
            return dtype
        wanted = _DTYPES[self._storage.dtype]
        return wanted if wanted.itemsize < dtype.itemsize else dtype


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    pinned = tensor.device.type == "cuda"
    host = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
    return host.copy_(tensor, non_blocking=pinned)
