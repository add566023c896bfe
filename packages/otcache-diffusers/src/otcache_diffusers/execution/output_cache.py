"""The computed outputs that a run still needs, as the cache storage specifies, and their combinations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import torch

from otcache_core.contracts import CacheStorage
from otcache_core.errors import ExecutionError
from otcache_core.playback import Arithmetic, KeptOutputs
from otcache_core.playback.player import Kept
from otcache_diffusers.hooks import Packed, tensors
from otcache_diffusers.hooks.trees import (
    LEAF,
    Extent,
    Form,
    combine_leaves,
    examine,
    extents,
    flatten,
    is_external,
    is_one,
    num_bytes,
    overlap,
    owned,
    prediction_at,
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


class Entry:
    """One output, open.

    Args:
        leaves: as they are kept.
        form: of the tree; containers are made anew, as the receiver may put something else in.
        frame: form and shapes, equal wherever outputs can be combined.
        borrowed: where in memory the leaves are that are not copies.
        copies: whether a copy is given if the output is returned alone.
    """

    def __init__(
        self,
        leaves: list[Any],
        form: Form,
        frame: tuple[Form, list[torch.Size]],
        borrowed: list[Extent],
        copies: bool,
    ) -> None:
        self.leaves, self.form, self.frame = leaves, form, frame
        self.borrowed, self._copies = borrowed, copies
        self._versions = self._versions_now()

    @property
    def written(self) -> bool:
        """Whether a leaf was written into since, or may be from now on."""
        return self._versions != self._versions_now()

    def _versions_now(self) -> list[tuple[int, bool]]:
        return [_version(leaf) for leaf in self.leaves if isinstance(leaf, torch.Tensor)]

    def copied(self) -> Entry:
        """Return the same in memory of its own, unless it was written into already."""
        if not self.borrowed or self.written:
            return self
        return Entry([_copied(leaf) for leaf in self.leaves], self.form, self.frame, [], True)

    def tree(self) -> Any:
        """Return the output, to be given to the sampler."""
        if self.form is LEAF and not self._copies:
            return self.leaves[0]
        leaves = [_copied(leaf) if self._copies else leaf for leaf in self.leaves]
        return unflatten(leaves, self.form)


@final
class TorchArithmetic(Arithmetic):
    """Combine torch's tensors, and trees of them that an :class:`OutputCache` keeps.

    Sums are accumulated in float32 (float64 of float64 outputs) in one tensor, and cast once. One kept
    output by itself is the very output, unless it cannot be seen whether the sampler writes into it.
    """

    def copy(self, output: Any) -> Any:
        """Return the same tree with a copy of every tensor."""
        return owned(output)

    def widen(self, output: Any) -> Any:
        """Return a tensor in float32, or wider if it is."""
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def combine(self, outputs: Sequence[Any], coefficients: Sequence[Any]) -> Any:
        """Return the sum of coefficient times output; of kept outputs in their own type."""
        first = outputs[0]
        if not isinstance(first, Entry):
            return super().combine(outputs, coefficients)
        plain = len(outputs) == 1 and is_one(coefficients[0])
        if plain and not any(isinstance(leaf, Packed) for leaf in first.leaves):
            return first.tree()
        return combine_leaves([one.leaves for one in outputs], first.form, coefficients)

    def order_weights(
        self, outputs: Sequence[Any], ramps: Sequence[tuple[float, float, float]]
    ) -> list[Any]:
        """Return the weight of each sample, by the predictions in outputs, kept ones or not.

        Raises:
            ExecutionError: if they are no floating-point numbers.
        """
        return super().order_weights([_prediction(one) for one in outputs], ramps)

    def inner(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return the inner product of each sample, in as many dimensions as they have."""
        return (one * other).sum(tuple(range(one.ndim > 1, one.ndim)), keepdim=True)

    def clamp(self, values: torch.Tensor) -> torch.Tensor:
        """Return values, none of them below 0 or above 1."""
        return values.clamp(0.0, 1.0)

    def narrow(self, wide: Any, dtype: Any) -> Any:
        """Return a tensor in another type; a tree has its types already."""
        return wide if dtype is None or not isinstance(wide, torch.Tensor) else wide.to(dtype)


@final
class OutputCache(KeptOutputs):
    """Outputs by branch and step, each an :class:`Entry`.

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
        changed: called with the bytes that are held, on the device and on the host, when that changes.
    """

    def __init__(self, storage: CacheStorage, changed: Callable[[int, int], None]) -> None:
        super().__init__(TorchArithmetic())
        self._packing, self._changed = Packing(storage), changed
        self._lost: dict[tuple[str, int], str] = {}
        self._copies = False

    def put(self, branch: str, step: int, kept: Kept, owned: bool = False) -> None:
        """Keep an output.

        Raises:
            ExecutionError: if there is no tensor in it, or something in it cannot be opened.
        """
        examine(kept.value)
        leaves, form = flatten(kept.value)
        plain = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        frame = form, [leaf.shape for leaf in plain]
        entries = {k: self._kept[branch, k].value for k in self.steps(branch)}
        for other, entry in entries.items():  # they cannot be combined with this one
            if entry.frame != frame:
                self._lose((branch, other), RESHAPED)
        stored = [self._stored(leaf) for leaf in leaves]
        same = [one for one, leaf in zip(stored, leaves, strict=True) if one is leaf]
        borrowed = extents(leaf for leaf in same if isinstance(leaf, torch.Tensor))
        copies = self._copies or any(leaf.is_inference() for leaf in plain)
        entry = Entry(stored, form, frame, [] if owned else borrowed, copies)
        self._kept[branch, step] = kept._replace(value=entry)
        self._changed(*self.held)

    def notice(self, output: Any) -> None:
        """See whether a computed output, kept or not, was written over one that is held."""
        if not self._kept:
            return
        written = extents(tensors(output))
        over = [key for key, kept in self._kept.items() if overlap(kept.value.borrowed, written)]
        for key in over:
            self._lose(key, SHARED)
        if over:
            self._copies = True
            self._kept = {
                key: kept._replace(value=kept.value.copied()) for key, kept in self._kept.items()
            }

    def get(self, branch: str, steps: Sequence[int]) -> list[Kept] | None:
        """Return the outputs of these steps; None unless all are held, as they were put here."""
        found = super().get(branch, steps)
        written = found is not None and any(kept.value.written for kept in found)
        return None if written else found

    def why_not(self, branch: str, steps: Sequence[int]) -> str:
        """Say why there are no outputs of these steps, and release what was written into."""
        for step in steps:
            kept = self._kept.get((branch, step))
            if kept is not None and kept.value.written:
                self._lose((branch, step), WRITTEN)
                self._copies = True
        reasons = [self._lost[branch, step] for step in steps if (branch, step) in self._lost]
        return next(iter(reasons), APPEARED).format(branch=branch)

    def holds(self, output: Any) -> bool:
        """Return whether a tensor of this output is kept, so that nothing may be written into it."""
        kept = {id(leaf) for one in self._kept.values() for leaf in one.value.leaves}
        return any(id(leaf) in kept for leaf in tensors(output))

    def drop(self, branch: str, steps: Sequence[int]) -> None:
        """Release outputs, held or not."""
        super().drop(branch, steps)
        self._changed(*self.held)

    def clear(self) -> None:
        """Release everything; what is known of the denoiser stays."""
        super().clear()
        self._lost.clear()
        self._changed(0, 0)

    def overflowed(self) -> bool:
        """Return whether an output put since the last call is beyond its storage; synchronizes."""
        return self._packing.overflowed()

    @property
    def held(self) -> Held:
        """The bytes held now."""
        leaves = [leaf for kept in self._kept.values() for leaf in kept.value.leaves]
        plain = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        packed = [leaf for leaf in leaves if isinstance(leaf, Packed)]
        stayed = [leaf.codes for leaf in packed if not leaf.moved]
        return Held(
            num_bytes([*plain, *stayed]), num_bytes([leaf.codes for leaf in packed if leaf.moved])
        )

    def _stored(self, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        stored = self._packing.pack(leaf)
        if stored is leaf and (self._copies or leaf.is_inference() or is_external(leaf)):
            return leaf.clone()
        return stored

    def _lose(self, key: tuple[str, int], reason: str) -> None:
        del self._kept[key]
        self._lost[key] = reason
        self._changed(*self.held)


def _prediction(output: Any) -> torch.Tensor:
    leaves = output.leaves if isinstance(output, Entry) else flatten(output)[0]
    leaf = leaves[prediction_at(leaves)]
    read: torch.Tensor = leaf.read() if isinstance(leaf, Packed) else leaf
    if read.is_complex():
        return torch.view_as_real(read)
    if not read.is_floating_point():
        raise ExecutionError(
            f"the order of a forecast needs outputs of floating-point numbers, got {read.dtype}: use reuse."
        )
    return read


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
