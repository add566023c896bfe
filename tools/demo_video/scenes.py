"""Captioned clips: objects that move or change size on a plain background, 9 frames of 48x48 pixels.

A clip is drawn from a seeded generator, says its own caption, and renders itself. Three kinds
(`TAGS`) exist: one shape, a pair of objects, one emoji. Some compositions of seen words are kept
from training (`is_novel`), so that the model can be asked for what it never saw.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from demo_image.scenes import COLOURS as PALETTE
from demo_image.scenes import SUPERSAMPLING, Thing, draw_thing, paste_sprite, with_article
from numpy.typing import NDArray
from PIL import Image

SIDE = 48
FRAMES = 9
TRAVEL = 18.0
"""Way of a moving object from the first frame to the last, in pixels."""
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
MOTIONS = (*DIRECTIONS, *GROWTHS)
RELATIONS: dict[str, tuple[float, float]] = {"left of": (-1.0, 0.0), "above": (0.0, -1.0)}

NOVEL_COLOURS = frozenset(
    {
        ("star", "purple"),
        ("heart", "green"),
        ("circle", "yellow"),
        ("square", "white"),
        ("triangle", "red"),
        ("ring", "blue"),
    }
)
NOVEL_MOTIONS = frozenset(
    {
        ("circle", "up"),
        ("heart", "left"),
        ("star", "shrinking"),
        ("cat", "down"),
        ("car", "up"),
        ("sun", "left"),
        ("apple", "growing"),
        ("frog", "right"),
        ("tree", "shrinking"),
    }
)
NOVEL_PAIRS = frozenset(
    frozenset(pair)
    for pair in (
        ("star", "circle"),
        ("heart", "square"),
        ("ring", "triangle"),
        ("cat", "tree"),
        ("sun", "car"),
        ("fish", "apple"),
    )
)


@dataclass(frozen=True)
class Actor:
    """One object of a clip: name, colour (None for an emoji), motion, and its two end states.

    `start` and `stop` are (x, y, radius) in the first and the last frame, in pixels.
    """

    name: str
    colour: str | None
    motion: str
    start: tuple[float, float, float]
    stop: tuple[float, float, float]

    def at(self, part: float) -> Thing:
        """Return the object as it stands at `part` of the clip, 0 first frame and 1 last."""
        x, y, radius = (a + part * (b - a) for a, b in zip(self.start, self.stop, strict=True))
        return Thing(self.name, self.colour, (x, y), radius)


@dataclass(frozen=True)
class Clip:
    """A caption with its tag, and the actors on a plain background."""

    caption: str
    tag: str
    background: str
    actors: tuple[Actor, ...]


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


def _background(rng: random.Random, *taken: str | None) -> str:
    return rng.choice([colour for colour in COLOURS if colour not in taken])


def _single(rng: random.Random, name: str, colour: str | None) -> Clip:
    motion = rng.choice(MOTIONS)
    size = None if motion in GROWTHS else rng.choice(list(SIZES))
    actor = (
        _moving(rng, name, colour, motion, SIZES[size], (0.0, 0.0))
        if size
        else _resizing(rng, name, colour, motion)
    )
    background = _background(rng, colour)
    caption = (
        f"{_phrase(name, colour, size)} {_verb(motion)} on {with_article(background)} background"
    )
    return Clip(caption, "shape" if colour else "emoji", background, (actor,))


def shape_clip(rng: random.Random) -> Clip:
    """Draw one coloured shape: "a large red circle moving left on a yellow background"."""
    return _single(rng, rng.choice(SHAPES), rng.choice(COLOURS))


def emoji_clip(rng: random.Random) -> Clip:
    """Draw one emoji: "a cat growing on a white background"."""
    return _single(rng, rng.choice(EMOJI), None)


def pair_clip(rng: random.Random) -> Clip:
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
    background = _background(rng, *colours)
    caption = (
        f"{_phrase(first.name, first.colour)} {_verb(first.motion)} {relation}"
        f" {_phrase(second.name, second.colour)} {_verb(second.motion)}"
        f" on {with_article(background)} background"
    )
    return Clip(caption, "pair", background, (first, second))


_MAKERS = {"shape": shape_clip, "pair": pair_clip, "emoji": emoji_clip}


def is_novel(clip: Clip) -> bool:
    """Say whether a clip holds a composition that is kept from training."""
    if frozenset(actor.name for actor in clip.actors) in NOVEL_PAIRS:
        return True
    return any(
        (actor.name, actor.colour) in NOVEL_COLOURS or (actor.name, actor.motion) in NOVEL_MOTIONS
        for actor in clip.actors
    )


def any_clips(seed: int, tags: tuple[str, ...] = TAGS) -> Iterator[Clip]:
    """Yield clips of the given tags for ever, novel ones among them."""
    rng = random.Random(seed)
    weights = [TAG_WEIGHTS[TAGS.index(tag)] for tag in tags]
    while True:
        yield _MAKERS[rng.choices(tags, weights)[0]](rng)


def training_clips(seed: int, tags: tuple[str, ...] = TAGS) -> Iterator[Clip]:
    """Yield clips for ever, without the compositions that are kept from training."""
    return (clip for clip in any_clips(seed, tags) if not is_novel(clip))


def vocabulary() -> list[str]:
    """Return every word a caption can hold."""
    words = ["a", "an", "on", "of", "background", "moving", "above"]
    return [*words, *MOTIONS, *SIZES, *COLOURS, *SHAPES, *EMOJI]


def render(clip: Clip, sprites: Mapping[str, Image.Image]) -> NDArray[np.uint8]:
    """Render a clip as RGB frames of shape (9, 48, 48, 3), box-filtered from four times that."""
    frames = [_frame(clip, index / (FRAMES - 1), sprites) for index in range(FRAMES)]
    return np.stack([np.asarray(frame) for frame in frames])


def _frame(clip: Clip, part: float, sprites: Mapping[str, Image.Image]) -> Image.Image:
    side = SIDE * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), PALETTE[clip.background])
    for actor in clip.actors:
        thing = actor.at(part)
        if thing.colour is None:
            paste_sprite(canvas, thing, sprites)
        else:
            draw_thing(canvas, thing, is_glyph=False)
    return canvas.reduce(SUPERSAMPLING)
