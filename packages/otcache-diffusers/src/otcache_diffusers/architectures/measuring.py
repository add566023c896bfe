"""Count what a module does without doing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from otcache_diffusers.architectures.masks import WholeMasks
from otcache_diffusers.hooks import tensors


class Count(NamedTuple):
    """Of one call.

    Attributes:
        flops: of matrix products, convolutions and attention; a multiply-add counts two.
        output_elements: numbers in the memory that keeping the output keeps alive.
    """

    flops: int
    output_elements: int


def count(call: Callable[[], Any]) -> Count:
    """Count one call of a module that lives on the meta device, by torch's flop counter.

    Element-wise work, norms and softmax are not counted. Scaled dot-product attention is: on the
    meta device it runs as its two matrix products. Masks are taken to hold no padding.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), torch.device("meta"), WholeMasks(), counter:
        output = call()
    memory = {id(s): s.nbytes() // leaf.itemsize for leaf, s in _storages(output)}
    return Count(counter.get_total_flops(), sum(memory.values()))


def _storages(output: Any) -> list[tuple[torch.Tensor, torch.UntypedStorage]]:
    return [(leaf, leaf.untyped_storage()) for leaf in tensors(output)]
