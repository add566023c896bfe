"""The picture wall of the page: each sample's full picture, and every method's at every budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from otcache.report.album import Album, Bytes
from otcache.report.pictures import data_uri, shrink
from otcache.report.summary import shared_budgets, worst_first
from otcache.results import Results

#: Characters of pictures in a page; where they would be more, all are shown smaller.
ROOM = 24_000_000
#: Samples on the wall.
MOST = 16


def wall(results: Results, album: Album, room: int = ROOM) -> dict[str, Any]:
    """Plain data for the page.

    Args:
        results: labels and per-picture RMSE.
        album: their pictures.
        room: characters that all pictures may take.

    Returns:
        ``pictures``, data URIs, each picture once, however many methods make it; ``cards``, each of
        ``sample``, ``full`` and ``tiles``: places in ``pictures``, by ``method:budget``, the method
        by its own place in ``results.methods``; those on which otcache is worst at the lowest budget
        first; ``size``, height and width of a picture; ``smaller``, by which factor they are smaller
        than in the album.
    """
    chosen = worst_first(results, shared_budgets(results)[0])[:MOST]
    hand = _Hand(results, album)
    hand.card(chosen[0])
    while hand.length * len(chosen) > room and min(hand.size) > 16:
        hand = _Hand(results, album, hand.factor * 2)
        hand.card(chosen[0])
    cards = [hand.card(sample) for sample in chosen]
    return {
        "pictures": list(hand.places),
        "cards": cards,
        "size": hand.size,
        "smaller": hand.factor,
    }


@dataclass(frozen=True)
class _Hand:
    """Encodes cards at a size.

    Attributes:
        places: data URI of a picture to its place.
    """

    results: Results
    album: Album
    factor: int = 1
    places: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self._small(self.album.full[0]).shape[:2]
        return height, width

    @property
    def length(self) -> int:
        """Characters so far."""
        return sum(map(len, self.places))

    def card(self, sample: int) -> dict[str, Any]:
        methods, stacks = self.results.methods, self.album.stacks
        tiles = {
            f"{place}:{budget}": self._place(stacks[method, budget][sample])
            for place, method in enumerate(methods)
            for budget in self.results.budgets
            if (method, budget) in stacks
        }
        return {"sample": sample, "full": self._place(self.album.full[sample]), "tiles": tiles}

    def _place(self, picture: Bytes) -> int:
        return self.places.setdefault(data_uri(self._small(picture)), len(self.places))

    def _small(self, picture: Bytes) -> Bytes:
        if self.factor == 1:
            return picture
        largest = max(picture.shape[:2]) // self.factor
        return np.rint(shrink(picture, largest)).astype(np.uint8)
