"""Emoji sprites (Twemoji, CC-BY 4.0) read from the npm package emoji-datasource-twitter."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

from PIL import Image

PACKAGE = "emoji-datasource-twitter"
VERSION = "16.0.0"
CELL = 64
"""Side of a sprite in pixels; a cell of the sheet has a border of one pixel more on each side."""

SHORT_NAMES: dict[str, str] = {
    "cat": "cat",
    "dog": "dog",
    "frog": "frog",
    "pig": "pig",
    "panda": "panda_face",
    "penguin": "penguin",
    "fish": "tropical_fish",
    "butterfly": "butterfly",
    "sun": "sunny",
    "moon": "crescent_moon",
    "cloud": "cloud",
    "apple": "apple",
    "banana": "banana",
    "strawberry": "strawberry",
    "watermelon": "watermelon",
    "pizza": "pizza",
    "burger": "hamburger",
    "tree": "evergreen_tree",
    "cactus": "cactus",
    "mushroom": "mushroom",
    "tulip": "tulip",
    "house": "house",
    "car": "car",
    "rocket": "rocket",
    "balloon": "balloon",
    "umbrella": "umbrella",
    "bell": "bell",
    "crown": "crown",
    "ghost": "ghost",
    "snowman": "snowman_without_snow",
}
"""The caption's word for each sprite, and the sprite's short name in emoji.json."""


def package_tarball(cache_dir: Path) -> Path:
    """Return the npm tarball in `cache_dir`; fetch it with `npm pack` when it is not there."""
    tarball = cache_dir / f"{PACKAGE}-{VERSION}.tgz"
    if not tarball.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", f"{PACKAGE}@{VERSION}"], cwd=cache_dir, check=True)
    return tarball


def load_sprites(cache_dir: Path) -> dict[str, Image.Image]:
    """Cut the sprites of `SHORT_NAMES` out of the package's 64-pixel sheet, as RGBA pictures.

    The "clean" sheet is read: it holds no other vendor's picture in place of a missing one.
    """
    with tarfile.open(package_tarball(cache_dir)) as archive:
        records = json.loads(_member(archive, "package/emoji.json"))
        sheet = Image.open(io.BytesIO(_member(archive, "package/img/twitter/sheets-clean/64.png")))
        sheet = sheet.convert("RGBA")
    by_name = {record["short_name"]: record for record in records}
    return {word: _cut(sheet, by_name[short]) for word, short in SHORT_NAMES.items()}


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    handle = archive.extractfile(name)
    if handle is None:
        raise FileNotFoundError(f"{name} is not a file of {PACKAGE} {VERSION}.")
    return handle.read()


def _cut(sheet: Image.Image, record: dict[str, int]) -> Image.Image:
    left = record["sheet_x"] * (CELL + 2) + 1
    top = record["sheet_y"] * (CELL + 2) + 1
    return sheet.crop((left, top, left + CELL, top + CELL))
