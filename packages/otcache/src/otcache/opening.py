"""Open what the command line names."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otcache_core import FileError, OtcacheError
from otcache_core.models import Demo
from otcache_core.plugins import Registry, installed
from otcache_core.storage.files import read_bytes

MAX_PROMPTS = 10_000
#: At which clips play where nobody says.
FRAMES_PER_SECOND = 16.0


@dataclass(frozen=True)
class Opened:
    """A target, and what its demo says about calling it.

    Args:
        target: the pipeline.
        call: arguments every call of it needs.
        prompts: prompts to calibrate on where the user names none.
        frames_per_second: at which clips play; 0 where that is not known, or it makes pictures.
    """

    target: Any
    call: dict[str, Any] = field(default_factory=dict)
    prompts: Sequence[str] = ()
    frames_per_second: float = 0.0


def find_demo(name: str, registry: Registry) -> Demo | None:
    """The demo that a pipeline's name means: ``demo:NAME``, or ``demo``, which is ``demo:image``.

    Returns:
        None if the name means no demo; so does ``demo:function`` of a module that is called ``demo``.

    Raises:
        PluginError: if the demo is not installed, is offered twice or cannot be loaded.
    """
    prefix, _, wanted = name.partition(":")
    known = {known for o in registry.known("demos") for known in (o.info.name, o.qualified_name)}
    if prefix != "demo" or (wanted and wanted not in known and _importable(prefix)):
        return None
    return open_demo(name, registry)


def open_demo(name: str, registry: Registry) -> Demo:
    """The demo of this name: ``demo:NAME``, or ``demo``, which is ``demo:image``.

    Raises:
        PluginError: if it is not installed, is offered twice or cannot be loaded.
    """
    wanted = name.partition(":")[2] or "image"
    return registry.create("demos", registry.resolve("demos", wanted))


def open_pipeline(name: str, registry: Registry | None = None) -> Opened:
    """A demo by its name, a target made by ``module:function``, or what a probe plugin opens.

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


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a prompt file that hold something, with their numbers.

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
    if not 1 <= len(lines) <= MAX_PROMPTS:
        raise FileError(
            f"{path}: must hold 1 to {MAX_PROMPTS} prompts, one a line, got {len(lines)}."
        )
    return lines


def _make(name: str, module: str, function: str) -> Any:
    _look_here()
    try:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ImportError(f"{module!r} is no name of a module")
        return getattr(importlib.import_module(module), function)()
    except OtcacheError:
        raise
    except (Exception, SystemExit) as error:  # of whoever wrote the function
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise OtcacheError(f"pipeline {name!r} cannot be made: {reason}") from error


def _importable(module: str) -> bool:
    _look_here()
    return importlib.util.find_spec(module) is not None


def _look_here() -> None:
    if os.getcwd() not in sys.path:  # a console script does not look beside itself
        sys.path.insert(0, os.getcwd())
