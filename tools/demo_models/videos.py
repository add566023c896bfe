"""Captioned videos: objects that move or change size on a plain background, 9 frames of 48x48 pixels.

A video is drawn from a seeded generator, says its own caption, and renders itself. Three kinds
(`TAGS`) exist: one shape, a pair of objects, one emoji. Some compositions of seen words are kept
from training (`is_novel`), to test the model on what it never saw.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .scenes import Thing, background_of, draw, pairs, stream, with_article

SIDE = 48
FRAMES = 9
TRAVEL = 18.0
"""Path length of a moving object from the first frame to the last, in pixels."""
TAGS = ("shape", "pair", "emoji")
TAG_WEIGHTS = (0.36, 0.30, 0.34)

COLOURS = ("red", "yellow", "green", "blue", "purple", "black", "white")
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")
EMOJI = ("cat", "frog", "panda", "fish", "sun", "apple", "car", "tree")
SIZES = {"small": 7.5, "large": 11.0}
DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}
GROWTHS = {"growing": (6.0, 15.0), "shrinking": (15.0, 6.0)}
"""Radius in the first and in the last frame."""
PROMPTS = {
    "calibration": {"shape": 6, "pair": 5, "emoji": 5},
    "heldout": {"shape": 11, "pair": 10, "emoji": 11},
    "novel": {"shape": 6, "pair": 6, "emoji": 6},
}
"""Number of shipped prompts, by list and tag."""
MOTIONS = (*DIRECTIONS, *GROWTHS)
RELATIONS: dict[str, tuple[float, float]] = {"left of": (-1.0, 0.0), "above": (0.0, -1.0)}

NOVEL_COLOURS = frozenset(
    pairs("star purple, heart green, circle yellow, square white, triangle red, ring blue")
)
NOVEL_MOTIONS = frozenset(
    pairs(
        "circle up, heart left, star shrinking, cat down, car up, sun left, apple growing, frog "
        "right, tree shrinking"
    )
)
NOVEL_PAIRS = frozenset(
    map(frozenset, pairs("star circle, heart square, ring triangle, cat tree, sun car, fish apple"))
)


@dataclass(frozen=True)
class Actor:
    """One object of a video: name, colour (None for an emoji), motion, and its two end states.

    `start` and `stop` are (x, y, radius) in the first and the last frame, in pixels.
    """

    name: str
    colour: str | None
    motion: str
    start: tuple[float, float, float]
    stop: tuple[float, float, float]

    def at(self, part: float) -> Thing:
        """Return the object at `part` of the video, 0 first frame and 1 last."""
        x, y, radius = (a + part * (b - a) for a, b in zip(self.start, self.stop, strict=True))
        return Thing(self.name, self.colour, (x, y), radius)


@dataclass(frozen=True)
class Video:
    """A caption with its tag, and the things on a plain background."""

    caption: str
    tag: str
    background: str
    things: tuple[Actor, ...]

    def subject(self, novel: bool) -> frozenset[tuple[str, ...]]:
        """Return what no two prompts of a list share: objects, with their motions if not novel."""
        return frozenset((t.name,) if novel else (t.name, t.motion) for t in self.things)


def _phrase(name: str, colour: str | None, size: str | None = None) -> str:
    return with_article(" ".join(word for word in (size, colour, name) if word))


def _verb(motion: str) -> str:
    return motion if motion in GROWTHS else f"moving {motion}"


def _moving(
    rng: random.Random,
    name: str,
    colour: str | None,
    motion: str,
    radius: float,
    offset: tuple[float, float],
) -> Actor:
    dx, dy = DIRECTIONS[motion]
    x, y = (SIDE / 2 + part + rng.uniform(-1.5, 1.5) for part in offset)
    half = TRAVEL / 2
    return Actor(
        name,
        colour,
        motion,
        (x - half * dx, y - half * dy, radius),
        (x + half * dx, y + half * dy, radius),
    )


def _resizing(rng: random.Random, name: str, colour: str | None, motion: str) -> Actor:
    x, y = (SIDE / 2 + rng.uniform(-2.0, 2.0) for _ in range(2))
    first, last = GROWTHS[motion]
    return Actor(name, colour, motion, (x, y, first), (x, y, last))


def _single(rng: random.Random, name: str, colour: str | None) -> Video:
    motion = rng.choice(MOTIONS)
    size = None if motion in GROWTHS else rng.choice(list(SIZES))
    actor = (
        _moving(rng, name, colour, motion, SIZES[size], (0.0, 0.0))
        if size
        else _resizing(rng, name, colour, motion)
    )
    background = background_of(rng, COLOURS, colour)
    caption = (
        f"{_phrase(name, colour, size)} {_verb(motion)} on {with_article(background)} background"
    )
    return Video(caption, "shape" if colour else "emoji", background, (actor,))


def shape_video(rng: random.Random) -> Video:
    """Draw one coloured shape: "a large red circle moving left on a yellow background"."""
    return _single(rng, rng.choice(SHAPES), rng.choice(COLOURS))


def emoji_video(rng: random.Random) -> Video:
    """Draw one emoji: "a cat growing on a white background"."""
    return _single(rng, rng.choice(EMOJI), None)


def pair_video(rng: random.Random) -> Video:
    """Draw two objects that pass: "a red star moving left above a blue ring moving right on ..."."""
    of_emoji = rng.random() < 0.35
    names = rng.sample(EMOJI if of_emoji else SHAPES, 2)
    colours = [None, None] if of_emoji else rng.sample(COLOURS, 2)
    relation = rng.choice(list(RELATIONS))
    ways = ("left", "right") if relation == "above" else ("up", "down")
    dx, dy = RELATIONS[relation]
    first, second = (
        _moving(
            rng, name, colour, rng.choice(ways), SIZES["small"], (11 * sign * dx, 11 * sign * dy)
        )
        for name, colour, sign in zip(names, colours, (1, -1), strict=True)
    )
    background = background_of(rng, COLOURS, *colours)
    caption = (
        f"{_phrase(first.name, first.colour)} {_verb(first.motion)} {relation}"
        f" {_phrase(second.name, second.colour)} {_verb(second.motion)}"
        f" on {with_article(background)} background"
    )
    return Video(caption, "pair", background, (first, second))


_MAKERS = {"shape": shape_video, "pair": pair_video, "emoji": emoji_video}


def is_novel(video: Video) -> bool:
    """Say whether a video holds a composition that is kept from training."""
    if frozenset(thing.name for thing in video.things) in NOVEL_PAIRS:
        return True
    return any(
        (thing.name, thing.colour) in NOVEL_COLOURS or (thing.name, thing.motion) in NOVEL_MOTIONS
        for thing in video.things
    )


def any_scenes(seed: int, tags: tuple[str, ...] = TAGS) -> Iterator[Video]:
    """Yield videos of the given tags without end, novel ones among them."""
    return stream(_MAKERS, dict(zip(TAGS, TAG_WEIGHTS, strict=True)), seed, tags)


def training_scenes(seed: int, tags: tuple[str, ...] = TAGS) -> Iterator[Video]:
    """Yield videos without end, except the compositions that are kept from training."""
    return (video for video in any_scenes(seed, tags) if not is_novel(video))


def vocabulary() -> list[str]:
    """Return every word a caption can hold."""
    words = ["a", "an", "on", "of", "background", "moving", "above"]
    return [*words, *MOTIONS, *SIZES, *COLOURS, *SHAPES, *EMOJI]


def render(video: Video, sprites: Mapping[str, Image.Image]) -> NDArray[np.uint8]:
    """Render a video as RGB frames of shape (9, 48, 48, 3)."""
    parts = [index / (FRAMES - 1) for index in range(FRAMES)]
    moments = [[thing.at(part) for thing in video.things] for part in parts]
    frames = [draw(SIDE, video.background, things, sprites) for things in moments]
    return np.stack([np.asarray(frame) for frame in frames])
