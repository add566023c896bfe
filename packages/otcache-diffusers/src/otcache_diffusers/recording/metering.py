"""What a request costs: time, multiply-adds, memory, and the states its sampler ends on."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from otcache_core.contracts import FeatureProbe, Measured, SampleRequest


def measure(probe: FeatureProbe, target: Any, request: SampleRequest, flops: bool) -> Measured:
    """Sample a request and count.

    Two kinds of run: timed, with nothing added but a look at the decoder's input; or counted
    (``flops``), with every operation passing through a multiply-add counter and a tensor tracer,
    several times slower. ``flops`` and ``peak_bytes`` do not include decoding.

    Args:
        probe: samples the target.
        target: accelerated or not, by any means.
        request: what to sample.
        flops: count instead of timing.
    """
    seen: list[Tensor] = []
    meters = Meters() if flops else None
    with ExitStack() as stack:
        stack.enter_context(_before_decoding(target, seen, meters))
        if meters is not None:
            stack.enter_context(meters)
        _wait()
        began = time.perf_counter()
        images = probe.sample(target, request)
        _wait()
        seconds = time.perf_counter() - began
    states = np.concatenate([_host(state) for state in seen]) if seen else None
    counted = (meters.flops, meters.peak_bytes) if meters else (None, None)
    return Measured(images, states, seconds, *counted)


class TensorTracer(TorchDispatchMode):
    """Counts the bytes of every storage an operation makes, until it dies; tracemalloc sees none.

    Attributes:
        live: bytes alive now, of those made since the mode was entered.
        peak: the most that ever were.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_key(leaf) for leaf in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for leaf in _tensors(result):
            if _key(leaf) not in given | self._known:
                self._born(leaf.untyped_storage())
        return result

    def _born(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        weakref.finalize(storage, self._died, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _died(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class Meters:
    """A multiply-add counter and a tensor tracer that can halt and go on.

    Attributes:
        flops: multiply-adds counted twice, of matrix products, convolutions and attention.
    """

    def __init__(self) -> None:
        self.flops = 0
        self._tracer = TensorTracer()
        self._stack = ExitStack()

    @property
    def peak_bytes(self) -> int:
        """The most bytes of tensors alive at once, of those made while counting."""
        return self._tracer.peak

    def __enter__(self) -> Meters:
        counter = FlopCounterMode(display=False)  # it forgets what it knew when it is entered again
        self._stack.callback(lambda: self._add(counter))
        self._stack.enter_context(self._tracer)
        self._stack.enter_context(counter)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Count nothing inside."""
        self._stack.close()
        try:
            yield
        finally:
            self.__enter__()

    def _add(self, counter: FlopCounterMode) -> None:
        self.flops += int(counter.get_total_flops())


@contextmanager
def _before_decoding(target: Any, seen: list[Tensor], meters: Meters | None) -> Iterator[None]:
    """Collect the decoder's inputs, and count nothing in it; the decoder is restored."""
    decoder = getattr(target, "vae", None)
    decode = getattr(decoder, "decode", None)
    if decoder is None or decode is None:
        yield
        return

    def watched(z: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(z.detach())
        with meters.halted() if meters else nullcontext():
            return decode(z, *args, **kwargs)

    own = vars(decoder).get("decode")
    decoder.decode = watched
    try:
        yield
    finally:
        if own is None:
            del decoder.decode
        else:
            decoder.decode = own


def _wait() -> None:
    """Synchronize the accelerator, if there is one: what is timed must have run."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def _host(state: Tensor) -> NDArray[np.floating]:
    found: NDArray[np.floating] = state.float().cpu().numpy()
    return found


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _key(leaf: Tensor) -> int:
    return int(leaf.untyped_storage()._cdata)
