"""Open what the command line names: pipelines, and files of samples.

A pipeline is a demo, a function of a module, or what a probe plugin opens. A file of samples holds prompts,
one per line, or JSON lines with the call arguments of each.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otcache_core import FileError, OtcacheError
from otcache_core.errors import shortened, shown
from otcache_core.models import Demo
from otcache_core.plugins import Registry, installed
from otcache_core.samples import Sample
from otcache_core.storage.files import open_file, read_bytes
from otcache_core.storage.json_files import check_values

MAX_PROMPTS = 10_000
#: Frames a second of a video whose pipeline does not say.
FRAMES_PER_SECOND = 16.0


@dataclass(frozen=True)
class Opened:
    """A target, and how its demo calls it.

    Args:
        target: the pipeline.
        call: arguments every call of it needs.
        prompts: prompts to calibrate on if the user names none.
        frames_per_second: of its videos; 0 if that is not known, or it makes images.
    """

    target: Any
    call: dict[str, Any] = field(default_factory=dict)
    prompts: Sequence[str] = ()
    frames_per_second: float = 0.0


def find_demo(name: str, registry: Registry) -> Demo | None:
    """Return the demo that a pipeline's name means: ``demo:NAME``, or ``demo``, which is ``demo:image``.

    Returns:
        None if the name means no demo; so does ``demo:function`` of a module that is called ``demo``.

    Raises:
        PluginError: if the demo is not installed, is offered twice or cannot be loaded.
    """
    prefix, _, wanted = name.partition(":")
    known = {known for o in registry.known("demos") for known in (o.info.name, o.qualified_name)}
    if prefix != "demo" or (wanted and wanted not in known and _importable(prefix)):
        return None
    return registry.create("demos", registry.resolve("demos", wanted or "image"))


def load_demo(name: str = "image", registry: Registry | None = None) -> tuple[Any, dict[str, Any]]:
    """Load a demo pipeline that otcache ships: trained, in miniature, and without a download.

    Args:
        name: ``image``, a FluxPipeline, or ``video``, a WanPipeline of otcache-video.
        registry: where demos come from; None: the installed plugins.

    Returns:
        The pipeline, and the arguments which each of its calls takes.

    Raises:
        PluginError: if no installed package has this demo, or it cannot be loaded.

    Examples:
        >>> pipe, call = otcache.load_demo("image")  # doctest: +SKIP
        >>> with otcache.accelerate(pipe, budget=8):  # doctest: +SKIP
        ...     image = pipe("the digit 7", num_inference_steps=30, **call).images[0]
    """
    registry = registry or installed()
    demo = registry.create("demos", registry.resolve("demos", name))
    return demo.load(), dict(demo.call)


def open_pipeline(name: str, registry: Registry | None = None) -> Opened:
    """Open a demo by its name, a target made by ``module:function``, or what a probe plugin opens.

    Args:
        name: ``demo`` or ``demo:NAME``; of a module that is called ``demo`` every other function.
        registry: where demos and probes come from; None: the installed plugins.

    Raises:
        OtcacheError: if nothing installed knows the name.
    """
    registry = registry or installed()
    demo = find_demo(name, registry)
    if demo is not None:
        texts = [text for text, _ in demo.prompts["calibration"]]
        return Opened(demo.load(), dict(demo.call), texts, demo.frames_per_second)
    module, separator, function = name.partition(":")
    if separator and function.isidentifier():
        return Opened(_make(name, module, function))
    for offer in registry.candidates("probes"):
        try:
            target = registry.create("probes", offer.qualified_name).open(name)
        except BaseException as error:
            if isinstance(error, OtcacheError) and registry.is_trusted(offer):
                raise
            registry.failed(offer, error)
            continue
        if target is not None:
            return Opened(target)
    raise OtcacheError(
        "pipeline must be 'demo', 'demo:video', a folder saved by save_pretrained, or "
        f"module:function, got {name!r}."
    )


def read_lines(path: Path, most: int = MAX_PROMPTS) -> list[tuple[int, str]]:
    """Return the lines of a prompt file that are not empty, with their numbers.

    Args:
        path: of the file.
        most: lines that it may hold.

    Raises:
        FileError: if the file cannot be read, is not UTF-8, or holds no or too many prompts.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise FileError(
            f"{path}, line {line}: must be UTF-8, got the byte {error.object[error.start]:#04x}: "
            "save the file as UTF-8."
        ) from error
    lines = [(n, line.strip()) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not 1 <= len(lines) <= most:
        raise FileError(f"{path}: must hold 1 to {most} prompts, one per line, got {len(lines)}.")
    return lines


def _make(name: str, module: str, function: str) -> Any:
    _look_here()
    try:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ImportError(f"{module!r} is not a name of a module")
        return getattr(importlib.import_module(module), function)()
    except OtcacheError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's function raises
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise OtcacheError(f"pipeline {name!r} cannot be made: {reason}") from error


def _importable(module: str) -> bool:
    _look_here()
    return importlib.util.find_spec(module) is not None


def _look_here() -> None:
    if os.getcwd() not in sys.path:  # a console script does not look beside itself
        sys.path.insert(0, os.getcwd())


#: Names of files that hold JSON lines.
JSON_LINES = (".jsonl", ".ndjson")


def read_samples(path: Path) -> list[Sample]:
    """Return the samples of a file, one per line; empty lines are omitted.

    A file that ends in ``.jsonl`` holds JSON lines: objects of call arguments, or strings, which are
    prompts. What is called ``image``, or ends in ``_image``, is the path of an image file beside this
    one, or a list of such paths, and is opened; every other value goes to the pipeline as it is.

    Raises:
        FileError: if the file or an image cannot be read, or a line is not JSON of that kind.
    """
    return [sample_of(path, *line) for line in read_lines(path)]


def sample_of(path: Path, number: int, text: str) -> Sample:
    """Return the sample of one line of a file; see :func:`read_samples`.

    Raises:
        FileError: if an image cannot be read, or the line is not JSON of that kind.
    """
    if path.suffix.lower() not in JSON_LINES:
        return text
    return _sample(f"{path}, line {number}", path.parent, text)


def _sample(place: str, folder: Path, text: str) -> Sample:
    try:
        sample = json.loads(text, object_pairs_hook=lambda pairs: _unique(place, pairs))
    except (ValueError, RecursionError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f'{place}: must be a JSON object such as {{"prompt": "a cat"}}, got {text[:60]!r}: {error}'
        ) from error
    check_values(place, sample)
    if isinstance(sample, str):
        return sample
    if not isinstance(sample, dict) or not sample:
        raise FileError(
            f'{place}: must be a JSON object such as {{"prompt": "a cat"}}, or a string, got {text[:60]}.'
        )
    return {name: _value(f"{place}, {name}", folder, name, entry) for name, entry in sample.items()}


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
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(
            f"{place}: the image {shown(value)} cannot be read: {shortened(reason).rstrip('.')}: paths are "
            "relative to the file they are in."
        ) from error
