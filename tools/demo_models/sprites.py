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

_WORDS = (
    "cat dog frog pig panda penguin fish butterfly sun moon cloud apple banana strawberry "
    "watermelon pizza burger tree cactus mushroom tulip house car rocket balloon umbrella "
    "bell crown ghost snowman"
)
NAMES = _WORDS.split()
"""The caption's words, one for each sprite."""
OTHER_NAMES = {
    "panda": "panda_face",
    "fish": "tropical_fish",
    "sun": "sunny",
    "moon": "crescent_moon",
    "burger": "hamburger",
    "tree": "evergreen_tree",
    "snowman": "snowman_without_snow",
}
"""The sprites' short names in emoji.json that differ from them."""


def package_tarball(cache_dir: Path) -> Path:
    """Return the npm tarball in `cache_dir`; fetch it with `npm pack` when it is not there."""
    tarball = cache_dir / f"{PACKAGE}-{VERSION}.tgz"
    if not tarball.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", f"{PACKAGE}@{VERSION}"], cwd=cache_dir, check=True)
    return tarball


def load_sprites(cache_dir: Path) -> dict[str, Image.Image]:
    """Cut the sprites of `NAMES` out of the package's 64-pixel sheet, as RGBA images.

    The "clean" sheet is read: it holds no other vendor's image in place of a missing one.
    """
    with tarfile.open(package_tarball(cache_dir)) as archive:
        records = json.loads(_member(archive, "package/emoji.json"))
        sheet = Image.open(io.BytesIO(_member(archive, "package/img/twitter/sheets-clean/64.png")))
        sheet = sheet.convert("RGBA")
    by_name = {record["short_name"]: record for record in records}
    return {word: _cut(sheet, by_name[OTHER_NAMES.get(word, word)]) for word in NAMES}


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    handle = archive.extractfile(name)
    if handle is None:
        raise FileNotFoundError(f"{name} is not a file of {PACKAGE} {VERSION}.")
    return handle.read()


def _cut(sheet: Image.Image, record: dict[str, int]) -> Image.Image:
    left = record["sheet_x"] * (CELL + 2) + 1
    top = record["sheet_y"] * (CELL + 2) + 1
    return sheet.crop((left, top, left + CELL, top + CELL))
