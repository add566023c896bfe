"""Read samples from files: prompts, one a line, or JSON lines with the call arguments of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otcache.opening import read_lines
from otcache_core import FileError
from otcache_core.errors import shortened, shown
from otcache_core.samples import Sample
from otcache_core.storage.files import open_file
from otcache_core.storage.json_files import check_values

#: Names of files that hold JSON lines.
JSON_LINES = (".jsonl", ".ndjson")


def read_samples(path: Path) -> list[Sample]:
    """Return the samples of a file, one a line; empty lines are left out.

    A file that ends in ``.jsonl`` holds JSON lines: objects of call arguments, or strings, which are
    prompts. What is called ``image``, or ends in ``_image``, is the path of an image file beside this
    one, or a list of such paths, and is opened; every other value goes to the pipeline as it is.

    Raises:
        FileError: if the file or an image cannot be read, or a line is no JSON of that kind.
    """
    lines = read_lines(path)
    if path.suffix.lower() not in JSON_LINES:
        return [text for _, text in lines]
    return [_sample(f"{path}, line {number}", path.parent, text) for number, text in lines]


def _sample(place: str, folder: Path, text: str) -> Sample:
    try:
        found = json.loads(text, object_pairs_hook=lambda pairs: _unique(place, pairs))
    except (ValueError, RecursionError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f'{place}: must be a JSON object such as {{"prompt": "a cat"}}, got {text[:60]!r}: {error}'
        ) from error
    check_values(place, found)
    if isinstance(found, str):
        return found
    if not isinstance(found, dict) or not found:
        raise FileError(
            f'{place}: must be a JSON object such as {{"prompt": "a cat"}}, or a string, got {text[:60]}.'
        )
    return {name: _value(f"{place}, {name}", folder, name, entry) for name, entry in found.items()}


def _unique(place: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FileError(f"{place}: {twice[0]} is given twice: give it once.")
    return dict(pairs)


def _value(place: str, folder: Path, name: str, value: Any) -> Any:
    if name != "image" and not name.endswith("_image"):
        return value
    if isinstance(value, list):
        return [_image(place, folder, entry) for entry in value]
    return _image(place, folder, value)


def _image(place: str, folder: Path, value: Any) -> Any:
    """Open an image upright, in colour."""
    if not isinstance(value, str):
        raise FileError(f"{place}: must be the path of an image, got {shown(value)}.")
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise FileError(
            f"{place}: images need Pillow: pip install 'otcache-diffusers[pipelines]'."
        ) from error
    try:
        with open_file(folder / value) as file, Image.open(file) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # whatever a damaged image makes Pillow's readers raise
        reason = next(_reasons(error), str(error))
        raise FileError(
            f"{place}: the image {shown(value)} cannot be read: {shortened(reason).rstrip('.')}: paths are "
            "relative to the file they stand in."
        ) from error


def _reasons(error: Exception) -> Iterator[str]:
    if isinstance(error, OSError) and error.strerror:
        yield error.strerror
