"""Configurations of a model that lies in a folder; no weights are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otcache_core import FileError
from otcache_core.architecture import Configs

#: Where pipelines keep what they denoise with.
DENOISERS = ("transformer", "unet")
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelFolder:
    """What ``save_pretrained`` wrote, of a pipeline or of its denoiser alone.

    Attributes:
        model_class: class of the denoiser.
        configs: of ``denoiser`` and, of a pipeline, ``vae``.
    """

    model_class: str
    configs: Configs

    @classmethod
    def read(cls, folder: Path) -> ModelFolder:
        """Read the config.json files.

        Raises:
            FileError: if there is none, or one is damaged.
        """
        places = [folder, *(folder / name for name in DENOISERS)]
        found = [place / "config.json" for place in places if (place / "config.json").is_file()]
        if not found:
            names = ", ".join(f"{name}/config.json" for name in DENOISERS)
            raise FileError(f"{folder}: must hold config.json, or {names}, got none of them.")
        denoiser = _read(found[0])
        vae = folder / "vae" / "config.json"
        configs = {"denoiser": denoiser} | ({"vae": _read(vae)} if vae.is_file() else {})
        return cls(str(denoiser["_class_name"]), configs)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FileError(f"{path}: must be at most {MAX_BYTES} bytes.")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path}: cannot read a configuration: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise FileError(f"{path}: must be an object with a string _class_name.")
    return config
