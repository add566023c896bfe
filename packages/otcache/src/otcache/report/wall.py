"""The picture wall of the page: each sample's full picture, and every method's at every budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from otcache.report.album import Album, Bytes
from otcache.report.pictures import data_uri, shrink
from otcache.report.summary import shared_budgets, worst_first
from otcache.results import Results

#: Bytes of pictures in a page; where they would be more, all are shown smaller.
ROOM = 24_000_000
#: Samples on the wall.
MOST = 16


def wall(results: Results, album: Album, room: int = ROOM) -> dict[str, Any]:
    """Plain data for the page: each picture once.

    Args:
        results: labels and per-picture RMSE.
        album: their pictures.
        room: bytes that all pictures may take.

    Returns:
        ``cards``, each of ``sample``, ``full`` (a data URI) and ``tiles`` (``method:budget``, the
        method by its place in ``results.methods``, to a data URI), those on which otcache is worst at
        the lowest budget first; ``size``, height and width of a picture; ``smaller``, by which
        factor they are smaller than in the album.
    """
    chosen = worst_first(results, shared_budgets(results)[0])[:MOST]
    hand = _Hand(results, album)
    while len(str(hand.card(chosen[0]))) * len(chosen) > room and min(hand.size) > 16:
        hand = _Hand(results, album, hand.factor * 2)
    cards = [hand.card(sample) for sample in chosen]
    return {"cards": cards, "size": hand.size, "smaller": hand.factor}


@dataclass(frozen=True)
class _Hand:
    """Encodes cards at a size."""

    results: Results
    album: Album
    factor: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self._small(self.album.full[0]).shape[:2]
        return height, width

    def card(self, sample: int) -> dict[str, Any]:
        methods, stacks = self.results.methods, self.album.stacks
        tiles = {
            f"{place}:{budget}": data_uri(self._small(stacks[method, budget][sample]))
            for place, method in enumerate(methods)
            for budget in self.results.budgets
            if (method, budget) in stacks
        }
        full = data_uri(self._small(self.album.full[sample]))
        return {"sample": sample, "full": full, "tiles": tiles}

    def _small(self, picture: Bytes) -> Bytes:
        if self.factor == 1:
            return picture
        largest = max(picture.shape[:2]) // self.factor
        return np.rint(shrink(picture, largest)).astype(np.uint8)
