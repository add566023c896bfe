"""Captioned scenes: flat images of 64x64 pixels whose caption says all that is in them.

A scene is drawn from a seeded generator, says its own caption, and renders itself. Four kinds
(`TAGS`) exist: one shape, a pair of objects, one glyph, one emoji. Some compositions of seen words
are kept from training (`is_novel`), to test the model on what it never saw.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from .sprites import NAMES

SIDE = 64
SUPERSAMPLING = 4
TAGS = ("shape", "pair", "glyph", "emoji")
TAG_WEIGHTS = (0.20, 0.28, 0.24, 0.28)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 45, 48),
    "orange": (247, 140, 28),
    "yellow": (252, 218, 54),
    "green": (46, 160, 74),
    "blue": (45, 90, 220),
    "purple": (135, 60, 175),
    "pink": (250, 160, 200),
    "black": (24, 24, 28),
    "white": (250, 250, 250),
    "gray": (140, 144, 150),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "ring", "cross")
SIZES = {"small": 13.0, "large": 21.0}
RELATIONS: dict[str, tuple[float, float]] = {
    "left of": (-1.0, 0.0),
    "right of": (1.0, 0.0),
    "above": (0.0, -1.0),
    "below": (0.0, 1.0),
}
DIGITS = tuple("0123456789")
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
EMOJI = tuple(NAMES)
PROMPTS = {
    role: dict.fromkeys(TAGS, count)
    for role, count in {"calibration": 4, "heldout": 8, "novel": 6}.items()
}
"""Number of shipped prompts, by list and tag."""


def pairs(text: str) -> Iterator[tuple[str, ...]]:
    """Split `a b, c d` into pairs of words."""
    return (tuple(pair.split()) for pair in text.split(", "))


NOVEL_SHAPE_COLOURS = frozenset(
    pairs(
        "star purple, heart green, circle pink, square orange, triangle gray, diamond red, ring "
        "yellow, cross blue"
    )
)
NOVEL_GLYPH_COLOURS = frozenset(
    pairs("K purple, A blue, R orange, T pink, H green, 7 red, 3 white, 5 yellow")
)
NOVEL_EMOJI_BACKGROUNDS = frozenset(
    pairs(
        "cat pink, rocket black, apple blue, tree orange, sun purple, fish yellow, house gray, "
        "penguin green"
    )
)
NOVEL_PAIRS = frozenset(
    map(frozenset, pairs("star circle, heart square, ring triangle, cat tree, sun house, moon car"))
)


@dataclass(frozen=True)
class Thing:
    """One object of a scene: what it is, its colour (None for an emoji), centre and radius."""

    name: str
    colour: str | None
    centre: tuple[float, float]
    radius: float

    @property
    def phrase(self) -> str:
        """The object's words, without an article."""
        return f"{self.colour} {self.name}" if self.colour else self.name


@dataclass(frozen=True)
class Scene:
    """A caption with its tag, and the things to draw on a plain background."""

    caption: str
    tag: str
    background: str
    things: tuple[Thing, ...]

    def subject(self, novel: bool) -> frozenset[str]:
        """Return what no two prompts of a list share: the objects' names."""
        return frozenset(thing.name for thing in self.things)


def with_article(phrase: str) -> str:
    """Put `a` or `an` before a phrase."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def background_of(rng: random.Random, colours: Iterable[str], *taken: str | None) -> str:
    """Draw a background in none of the objects' colours."""
    return rng.choice([colour for colour in colours if colour not in taken])


def _centre(rng: random.Random, spread: float) -> tuple[float, float]:
    middle = SIDE / 2
    return middle + rng.uniform(-spread, spread), middle + rng.uniform(-spread, spread)


def _single(rng: random.Random, name: str, colour: str | None) -> Scene:
    size = rng.choice(list(SIZES))
    thing = Thing(name, colour, _centre(rng, 2.0), SIZES[size])
    background = background_of(rng, COLOURS, colour)
    caption = f"a {size} {thing.phrase} on {with_article(background)} background"
    return Scene(caption, "shape" if colour else "emoji", background, (thing,))


def shape_scene(rng: random.Random) -> Scene:
    """Draw one coloured shape, small or large: "a large red circle on a yellow background"."""
    return _single(rng, rng.choice(SHAPES), rng.choice(list(COLOURS)))


def emoji_scene(rng: random.Random) -> Scene:
    """Draw one emoji, small or large: "a large cat on a white background"."""
    return _single(rng, rng.choice(EMOJI), None)


def glyph_scene(rng: random.Random) -> Scene:
    """Draw one capital letter or digit: "the letter K in red on a black background"."""
    glyph = rng.choice(LETTERS + DIGITS)
    colour = rng.choice(list(COLOURS))
    background = background_of(rng, COLOURS, colour)
    kind = "digit" if glyph in DIGITS else "letter"
    caption = f"the {kind} {glyph} in {colour} on {with_article(background)} background"
    return Scene(caption, "glyph", background, (Thing(glyph, colour, _centre(rng, 3.0), 21.0),))


def pair_scene(rng: random.Random) -> Scene:
    """Draw two different objects in a relation: "a blue star left of a red ring on a ..."."""
    of_emoji = rng.random() < 0.35
    names = rng.sample(EMOJI if of_emoji else SHAPES, 2)
    colours = [None, None] if of_emoji else rng.sample(list(COLOURS), 2)
    relation = rng.choice(list(RELATIONS))
    first, second = (
        Thing(name, colour, _pair_centre(rng, relation, sign), 13.0)
        for name, colour, sign in zip(names, colours, (1, -1), strict=True)
    )
    background = background_of(rng, COLOURS, *colours)
    caption = (
        f"{with_article(first.phrase)} {relation} {with_article(second.phrase)}"
        f" on {with_article(background)} background"
    )
    return Scene(caption, "pair", background, (first, second))


def _pair_centre(rng: random.Random, relation: str, sign: int) -> tuple[float, float]:
    x, y = _centre(rng, 1.5)
    dx, dy = RELATIONS[relation]
    return x + sign * 15.5 * dx, y + sign * 15.5 * dy


_MAKERS = {"shape": shape_scene, "pair": pair_scene, "glyph": glyph_scene, "emoji": emoji_scene}


def is_novel(scene: Scene) -> bool:
    """Say whether a scene holds a composition that is kept from training."""
    names = [thing.name for thing in scene.things]
    if frozenset(names) in NOVEL_PAIRS:
        return True
    for thing in scene.things:
        held = NOVEL_GLYPH_COLOURS if scene.tag == "glyph" else NOVEL_SHAPE_COLOURS
        if (thing.name, thing.colour) in held:
            return True
        if thing.colour is None and (thing.name, scene.background) in NOVEL_EMOJI_BACKGROUNDS:
            return True
    return False


def any_scenes(seed: int, tags: tuple[str, ...] = TAGS) -> Iterator[Scene]:
    """Yield scenes of the given tags without end, novel ones among them."""
    return stream(_MAKERS, dict(zip(TAGS, TAG_WEIGHTS, strict=True)), seed, tags)


def stream(
    makers: Mapping[str, Callable[[random.Random], Any]],
    weights: Mapping[str, float],
    seed: int,
    tags: tuple[str, ...],
) -> Iterator[Any]:
    """Yield what the makers of some tags draw, without end."""
    rng = random.Random(seed)
    while True:
        yield makers[rng.choices(tags, [weights[tag] for tag in tags])[0]](rng)


def training_scenes(seed: int, tags: tuple[str, ...] = TAGS) -> Iterator[Scene]:
    """Yield scenes without end, except the compositions that are kept from training."""
    return (scene for scene in any_scenes(seed, tags) if not is_novel(scene))


def vocabulary() -> list[str]:
    """Return every word a caption can hold."""
    words = ["a", "an", "the", "in", "on", "of", "background", "letter", "digit"]
    words += ["left", "right", "above", "below", *SIZES, *COLOURS, *SHAPES, *EMOJI]
    return [*words, *LETTERS, *DIGITS]


def render(scene: Scene, sprites: Mapping[str, Image.Image]) -> Image.Image:
    """Render a scene as an RGB image of 64x64 pixels."""
    return draw(SIDE, scene.background, scene.things, sprites, scene.tag == "glyph")


def draw(
    side: int,
    background: str,
    things: Iterable[Thing],
    sprites: Mapping[str, Image.Image],
    glyph: bool = False,
) -> Image.Image:
    """Draw things on a plain background, box-filtered from four times the size."""
    canvas = Image.new("RGB", (side * SUPERSAMPLING,) * 2, COLOURS[background])
    for thing in things:
        if thing.colour is None:
            _paste_sprite(canvas, thing, sprites)
        else:
            _draw_thing(canvas, thing, glyph)
    return canvas.reduce(SUPERSAMPLING)


def _paste_sprite(canvas: Image.Image, thing: Thing, sprites: Mapping[str, Image.Image]) -> None:
    side = round(2 * (thing.radius + 1.0) * SUPERSAMPLING)
    sprite = sprites[thing.name].resize((side, side), Image.Resampling.BICUBIC)
    corner = tuple(round(value * SUPERSAMPLING - side / 2) for value in thing.centre)
    canvas.paste(sprite, (corner[0], corner[1]), sprite)


def _draw_thing(canvas: Image.Image, thing: Thing, is_glyph: bool) -> None:
    draw = ImageDraw.Draw(canvas)
    x, y = (value * SUPERSAMPLING for value in thing.centre)
    radius = thing.radius * SUPERSAMPLING
    fill = COLOURS[thing.colour or "black"]
    if is_glyph:
        draw.text((x, y), thing.name, fill=fill, font=font(round(2.3 * radius)), anchor="mm")
    elif thing.name == "circle":
        draw.circle((x, y), 0.95 * radius, fill=fill)
    elif thing.name == "ring":
        draw.circle((x, y), 0.95 * radius, outline=fill, width=round(0.36 * radius))
    elif thing.name == "cross":
        arm = 0.32 * radius
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=fill)
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=fill)
    else:
        draw.polygon([(x + radius * u, y + radius * v) for u, v in _outline(thing.name)], fill=fill)


@cache
def font(size: int, name: str = "DejaVuSans-Bold") -> ImageFont.FreeTypeFont:
    """Load a font that comes with matplotlib."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), size)


@cache
def _outline(name: str) -> tuple[tuple[float, float], ...]:
    """Return a polygon's corners for a radius of one, y pointing down."""
    if name == "square":
        return ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85))
    if name == "diamond":
        return ((0.0, -1.0), (0.75, 0.0), (0.0, 1.0), (-0.75, 0.0))
    if name == "triangle":
        return ((0.0, -0.9), (1.0, 0.8), (-1.0, 0.8))
    if name == "star":
        return tuple(_polar(1.0 if k % 2 == 0 else 0.42, math.pi * k / 5) for k in range(10))
    return tuple(_heart(2 * math.pi * k / 72) for k in range(72))


def _polar(radius: float, angle: float) -> tuple[float, float]:
    return radius * math.sin(angle), -radius * math.cos(angle)


def _heart(angle: float) -> tuple[float, float]:
    x = 16 * math.sin(angle) ** 3
    y = sum(a * math.cos(k * angle) for k, a in ((1, 13), (2, -5), (3, -2), (4, -1)))
    return x / 17, -(y + 2.5) / 15.5
