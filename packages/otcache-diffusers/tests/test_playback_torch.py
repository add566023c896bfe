"""Playback tables followed on torch tensors: by copies, and by the executor's cache."""

from __future__ import annotations

from typing import Any

import torch

from otcache_core import Playback, PlaybackTable
from otcache_core.contracts import CacheStorage
from otcache_core.testing import PlaybackConformance
from otcache_diffusers.execution.output_cache import OutputCache, TorchArithmetic


class TestTorch(PlaybackConformance):
    def make_playback(self, table: PlaybackTable) -> Playback:
        return Playback(table, TorchArithmetic())

    def to_engine(self, array: Any) -> torch.Tensor:
        return torch.tensor(array, dtype=torch.float32)

    def to_numpy(self, output: Any) -> Any:
        return output.float().numpy()

    def to_half(self, array: Any) -> torch.Tensor:
        return torch.tensor(array, dtype=torch.bfloat16)

    def overwrite(self, output: Any) -> None:
        output.fill_(float("nan"))


class TestTorchUncopied(TestTorch):
    """The executor keeps the denoiser's own outputs, and notices what writes into them."""

    def make_playback(self, table: PlaybackTable) -> Playback:
        outputs = OutputCache(CacheStorage(), lambda on_device, on_host: None)
        return Playback(table, TorchArithmetic(), outputs)
