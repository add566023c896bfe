"""Configurations of a model that lies in a folder; no weights are read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otcache_core.errors import expected
from otcache_core.models import Configs
from otcache_core.storage.files import bad_file, read_bytes
from otcache_core.storage.json_files import parse_json

#: Where pipelines keep what they denoise with.
DENOISERS = ("transformer", "unet")
MAX_BYTES = 2**20
#: A model of more is none, and building it to count its operations takes hours.
MAX_LAYERS = 500


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
        paths = [place / "config.json" for place in places]
        found = [path for path in paths if os.path.lexists(path)]
        if not found:
            names = ", ".join(f"{name}/config.json" for name in DENOISERS)
            raise bad_file(folder, f"must hold config.json, or {names}, got none of them.")
        denoiser = _read(found[0])
        vae = folder / "vae" / "config.json"
        configs = {"denoiser": denoiser} | ({"vae": _read(vae)} if os.path.lexists(vae) else {})
        return cls(str(denoiser["_class_name"]), configs)


def _read(path: Path) -> dict[str, Any]:
    config = parse_json(path, read_bytes(path, MAX_BYTES))
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise bad_file(path, "must be an object with a string _class_name.")
    for name, value in config.items():
        if _is_depth(name) and _largest(value) > MAX_LAYERS:
            raise bad_file(path, expected(name, value, f"at most {MAX_LAYERS} layers"))
    return config


def _is_depth(name: str) -> bool:
    counts = any(part in name for part in ("layer", "block", "depth"))
    return counts and not any(part in name for part in ("channel", "dim", "size", "scale"))


def _largest(value: Any) -> float:
    if isinstance(value, list):
        return max([len(value), *map(_largest, value)])
    return value if isinstance(value, int | float) else 0
