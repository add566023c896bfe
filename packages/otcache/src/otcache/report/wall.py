"""The wall of the page: each sample's full picture or clip, and every method's at every budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from otcache.report.analysis import shared_budgets, worst_first
from otcache.report.grid import frame_errors, rows_of, strip
from otcache.report.pictures import Album, Bytes, data_uri, shrink
from otcache.report.results import Results

#: Characters of pictures in a page; where they would be more, all are shown smaller.
ROOM = 24_000_000
#: Samples on the wall.
MOST = 16
#: Pixels of the shorter side from which on pictures, and clips, may be halved.
HALVED, HALVED_CLIPS = 17, 64
#: Frames below which none of a clip are left out.
FEWEST_FRAMES = 12


def wall(results: Results, album: Album, room: int = ROOM) -> dict[str, Any]:
    """Plain data for the page.

    Args:
        results: labels, per-sample RMSE, and the frame rate of clips.
        album: their pictures or clips.
        room: characters that all of them may take.

    Returns:
        ``pictures``, data URIs, each picture once, however many methods make it; ``cards``, each of
        ``sample``, ``full`` and ``tiles``: places in ``pictures``, by ``method:budget``, the method
        by its own place in ``results.methods``; those on which otcache is worst at the lowest budget
        first; ``size``, height and width of a picture; ``smaller``, by which factor they are smaller
        than in the album.

        Of clips a picture is a film strip of all frames. Cards have ``errors`` too, the RMSE of each
        frame by ``method:budget``; and there are ``frames``, the numbers of those shown, from 0;
        ``filmed``, how many a clip has; ``rows``, frames below one another in a strip; ``rate``, shown
        frames a second. Where room is short even so, there are fewer cards.
    """
    chosen = worst_first(results, shared_budgets(results)[0])[:MOST]
    first, hand = chosen[0], _Hand(results, album)
    for hand in _hands(results, album):
        hand.card(first)
        if hand.length * len(chosen) <= room:
            break
    if album.frames:
        chosen = chosen[: max(1, room // hand.length)]
    cards = [hand.card(sample) for sample in chosen]
    return {
        "pictures": list(hand.places),
        "cards": cards,
        "size": hand.size,
        "smaller": hand.factor,
        **hand.film,
    }


def _hands(results: Results, album: Album) -> Iterator[_Hand]:
    """Ever smaller ones: first in space, then, of clips, every k-th frame alone."""
    halved = HALVED_CLIPS if album.frames else HALVED
    hand = _Hand(results, album)
    yield hand
    while min(hand.size) >= halved:
        hand = _Hand(results, album, hand.factor * 2)
        yield hand
    while album.frames // (hand.stride + 1) >= FEWEST_FRAMES:
        hand = _Hand(results, album, hand.factor, hand.stride + 1)
        yield hand


@dataclass(frozen=True)
class _Hand:
    """Encodes cards at a size.

    Attributes:
        stride: of a clip, every so many frames are shown.
        places: data URI of a picture to its place.
    """

    results: Results
    album: Album
    factor: int = 1
    stride: int = 1
    places: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self._small(self.album.full[0]).shape[-3:-1]
        return height, width

    @property
    def length(self) -> int:
        """Characters so far."""
        return sum(map(len, self.places))

    @property
    def frames(self) -> Sequence[int]:
        """Those shown of a clip."""
        return range(0, self.album.frames, self.stride)

    @property
    def film(self) -> dict[str, Any]:
        """What a page of clips knows besides."""
        if not self.album.frames:
            return {}
        return {
            "frames": list(self.frames),
            "filmed": self.album.frames,
            "rows": rows_of(len(self.frames), self.size[0]),
            "rate": self.results.frames_per_second / self.stride,
        }

    def card(self, sample: int) -> dict[str, Any]:
        methods, stacks, full = self.results.methods, self.album.stacks, self.album.full[sample]
        made = {
            f"{place}:{budget}": stacks[method, budget][sample]
            for place, method in enumerate(methods)
            for budget in self.results.budgets
            if (method, budget) in stacks
        }
        tiles = {key: self._place(one) for key, one in made.items()}
        card: dict[str, Any] = {"sample": sample, "full": self._place(full), "tiles": tiles}
        if self.album.frames:
            step = slice(None, None, self.stride)
            card["errors"] = {
                key: frame_errors(clip[step], full[step]) for key, clip in made.items()
            }
        return card

    def _place(self, picture: Bytes) -> int:
        small = self._small(picture)
        return self.places.setdefault(
            data_uri(strip(small) if small.ndim == 4 else small), len(self.places)
        )

    def _small(self, picture: Bytes) -> Bytes:
        if picture.ndim == 4:
            picture = picture[:: self.stride]
        if self.factor == 1:
            return picture
        largest = max(picture.shape[-3:-1]) // self.factor
        return np.rint(shrink(picture, largest)).astype(np.uint8)
