"""Provenance and fingerprint: what binds a policy to a pipeline, read off its configuration."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from types import CellType, CodeType
from typing import Any

import torch

from otcache_core.callable_denoiser import CallableDenoiser, name_of
from otcache_core.loop import Loop
from otcache_diffusers.compat import installed, is_a, is_modular, is_pipeline
from otcache_diffusers.hooks import denoisers_of
from otcache_diffusers.hooks.conflicts import inner_modules
from otcache_diffusers.hooks.modular import call_parameters, guiders_of
from otcache_diffusers.hooks.sigmas import setting

#: What pipelines call the ratio of pixels to latent pixels, of frames to latent frames, and the frames.
SPATIAL = (
    "vae_scale_factor",
    "vae_scale_factor_spatial",
    "vae_spatial_compression_ratio",
    "vae_spatial_scale_factor",
)
TEMPORAL = (
    "vae_scale_factor_temporal",
    "vae_temporal_compression_ratio",
    "vae_temporal_scale_factor",
)
FRAMES = ("num_frames", "video_length", "frames")


def provenance_of(
    target: Any, num_steps: int | None, call: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the fields of :class:`otcache_core.policy.Provenance` without ``grid``; None is unknown.

    Args:
        target: a pipeline, a loop or a bare module.
        num_steps: N.
        call: the arguments of its calls; None if unknown.
    """
    denoiser = denoisers_of(target)[""]
    loop = isinstance(target, (Loop, torch.nn.Module))
    return {
        "num_steps": num_steps,
        "model_class": _class_of(denoiser),
        "config_hash": _config_hash(denoiser),
        "scheduler_class": None if loop else type(target.scheduler).__name__,
        "prediction_type": None if loop else prediction_type(target.scheduler),
        "guidance": None if loop or call is None else _guidance(target, denoiser, call),
        "resolution": None if loop or call is None else _latent_tokens(target, denoiser, call),
        "versions": _versions(target),
    }


def _versions(target: Any) -> dict[str, str]:
    """Return what computes a target, by library; diffusers has no part in a loop."""
    own = {"torch": str(torch.__version__)}
    return own | {"diffusers": installed("diffusers")} if is_pipeline(target) else own


def fingerprint_of(target: Any) -> str:
    """Return a hash of up to 16 evenly spaced elements of every weight of the target's denoisers.

    Of a callable that is not a module, its name, the weights of the modules it holds, and parts of the
    files it was loaded from; of a loop also the code of its sampler, its defaults, and the plain values it
    encloses.
    """
    digest = hashlib.sha256()
    if isinstance(target, Loop):
        digest.update(_code(target.sample_fn).encode())
    for denoiser in denoisers_of(target).values():
        digest.update(b"" if isinstance(denoiser, torch.nn.Module) else _named(denoiser))
        for module in inner_modules(denoiser):
            for name, weight in module.named_parameters():
                flat = weight.detach().reshape(-1)
                few = flat[:: max(1, flat.numel() // 16)].float().cpu().numpy()
                digest.update(name.encode() + few.tobytes())
    return digest.hexdigest()[:16]


def _named(denoiser: Any) -> bytes:
    """Return the name of a callable, and parts of the files of an engine's object."""
    own = (
        () if isinstance(denoiser, CallableDenoiser) else getattr(denoiser, "__dict__", {}).values()
    )
    parts = [_parts(file) for path in own if isinstance(path, Path) for file in _files(path)]
    return name_of(denoiser).encode() + b"".join(parts)


def _files(path: Path) -> list[Path]:
    """Return a model's files: those of a folder, or those named like a file (``model.onnx_data``)."""
    found = path.iterdir() if path.is_dir() else path.parent.glob(f"{path.stem}*")
    return sorted(file for file in found if file.is_file() and file.suffix != ".json")


def _parts(file: Path) -> bytes:
    """Return the size of a file and 16 evenly spaced parts of it."""
    size = file.stat().st_size
    with file.open("rb") as source:
        parts = [source.read(64) for at in range(16) if source.seek(at * size // 16) is not None]
    return b"".join([str(size).encode(), *parts])


def _code(function: Any) -> str:
    """Return the code of a function and the plain values it uses, as text; "" of what has none."""
    plain = inspect.unwrap(getattr(function, "func", function))
    code = getattr(getattr(plain, "__func__", plain), "__code__", None)
    if code is None:
        return ""
    cells = [
        cell.cell_contents for cell in getattr(plain, "__closure__", None) or () if _filled(cell)
    ]
    values = [*(getattr(plain, "__defaults__", None) or ()), *cells]
    numbers = [value for value in values if isinstance(value, (bool, int, float, str))]
    return repr([_instructions(code), numbers])


def _instructions(code: CodeType) -> list[Any]:
    inner = [_instructions(c) for c in code.co_consts if isinstance(c, CodeType)]
    constants = [repr(c) for c in code.co_consts if not isinstance(c, CodeType)]
    return [code.co_code.hex(), code.co_names, constants, inner]


def _filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # an empty cell raises
    except ValueError:
        return False
    return True


def prediction_type(scheduler: Any) -> str:
    """Return ``flow``, ``epsilon``, ``v_prediction`` or ``sample``; "" if a scheduler does not say."""
    if "FlowMatch" in type(scheduler).__name__:
        return "flow"
    kind = str(setting(scheduler, "prediction_type") or "")
    return "flow" if kind == "flow_prediction" else kind


def _class_of(denoiser: Any) -> str:
    return type(denoiser).__name__ if isinstance(denoiser, torch.nn.Module) else name_of(denoiser)


def _config_hash(denoiser: Any) -> str | None:
    """Return a hash of the configuration, or of names and shapes of the weights if there is none.

    None for a callable without one that holds no module, or several: which of them denoise is not known.
    """
    described = _described(denoiser)
    if described is None:
        return None
    config = getattr(described, "config", None)
    if isinstance(config, Mapping):
        facts: Any = {key: value for key, value in config.items() if not str(key).startswith("_")}
    else:
        facts = [(name, list(p.shape)) for name, p in described.named_parameters()]
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _described(denoiser: Any) -> Any | None:
    """Return what says how a denoiser is made: an engine's object, or the one module there is."""
    plain = not isinstance(denoiser, (torch.nn.Module, CallableDenoiser))
    if plain and isinstance(getattr(denoiser, "config", None), Mapping):
        return denoiser
    modules = inner_modules(denoiser)
    return modules[0] if len(modules) == 1 else None


def _guidance(pipe: Any, denoiser: Any, call: Mapping[str, Any]) -> str:
    """Return ``cfg 3.0``, with ``then 4.0`` for a second denoiser, ``embedded 3.5`` or ``none``.

    LTX 2's other kinds follow: ``cfg 3.0, stg 1.0, modality 3.0``; of a pipeline that has guiders, what
    :func:`guider_text` says of each.
    """
    guiders = list(dict.fromkeys(map(guider_text, guiders_of(pipe).values())))
    if guiders:
        plain = [text.removeprefix("cfg ") for text in guiders if text.startswith("cfg ")]
        every = plain if len(plain) == len(guiders) else guiders
        return f"cfg {' then '.join(every)}" if every is plain else ", ".join(every)
    defaults = call_parameters(pipe)

    def scale(name: str) -> float | None:
        value = call.get(name, defaults[name].default if name in defaults else None)
        return float(value) if isinstance(value, (int, float)) else None

    embedded = bool(setting(denoiser, "guidance_embeds"))
    negative = any(call.get(name) is not None for name in call if name.startswith("negative_"))
    true_scale, guidance = scale("true_cfg_scale"), scale("guidance_scale")
    if true_scale is not None and true_scale > 1 and negative:
        return f"cfg {true_scale}"
    if embedded:
        return f"embedded {guidance}"
    guided = not is_modular(pipe) or any(name.startswith("negative_") for name in defaults)
    if guided and "true_cfg_scale" not in defaults and guidance is not None and guidance > 1:
        second = scale("guidance_scale_2") if len(denoisers_of(pipe)) > 1 else None
        found = f"cfg {guidance}" if second in (None, guidance) else f"cfg {guidance} then {second}"
        others = {"stg": (scale("stg_scale"), 0.0), "modality": (scale("modality_scale"), 1.0)}
        more = (f", {kind} {s}" for kind, (s, off) in others.items() if s not in (None, off))
        return found + "".join(more)
    return "none"


def guider_text(guider: Any) -> str:
    """Return ``cfg 3.0`` or ``none`` for plain guidance over a whole run, else class and settings.

    Settings that are the class's defaults are omitted, except the scale:
    ``AdaptiveProjectedGuidance(guidance_scale=7.5, eta=0.5)``.
    """
    config = {n: v for n, v in guider.config.items() if not n.startswith("_")}
    given = {n: _plain(getattr(guider, n, v)) for n, v in config.items()}
    enabled = given.pop("enabled", True)
    if not getattr(guider, "_enabled", enabled):
        return "none"
    known = inspect.signature(type(guider).__init__).parameters
    plain = {n: v for n, v in given.items() if n not in known or v != known[n].default}
    scale, original = given.get("guidance_scale"), plain.get("use_original_formulation", False)
    only = plain.keys() <= {"guidance_scale", "use_original_formulation"}
    if is_a(guider, "ClassifierFreeGuidance") and only and isinstance(scale, (int, float)):
        own = float(scale) + bool(original)
        return "none" if own == 1 else f"cfg {own}"
    shown = {n: v for n, v in given.items() if n in plain or n == "guidance_scale"}
    settings = ", ".join(f"{name}={value}" for name, value in shown.items())
    return f"{type(guider).__name__}({settings})"


def _plain(setting: Any) -> Any:
    """Return a setting as it is in a file: of layers to skip, a dictionary."""
    if isinstance(setting, (list, tuple)):
        return [_plain(value) for value in setting]
    to_dict = getattr(setting, "to_dict", None)
    return to_dict() if callable(to_dict) else setting


def _latent_tokens(pipe: Any, denoiser: Any, call: Mapping[str, Any]) -> int | None:
    """Count the tokens of one image or video; latent pixels for a UNet; None if the size is not known.

    A video of F frames has (F - 1) // r + 1 latent frames, r the autoencoder's ratio in time; ``patch_size``
    is (t, h, w), or that of both sides with ``patch_size_t`` beside it.
    """
    factor = _first(pipe, SPATIAL)
    side = getattr(pipe, "default_sample_size", setting(denoiser, "sample_size"))
    default = side * factor if isinstance(side, int) and isinstance(factor, int) else None
    height, width = (_argument(pipe, call, name) or default for name in ("height", "width"))
    if factor is None or height is None or width is None:
        return None
    frames = next(filter(None, (_argument(pipe, call, name) for name in FRAMES)), None)
    patch = setting(denoiser, "patch_size") or 1
    if frames is None and _packs(pipe, denoiser):
        patch = 2
    sides = (patch,) if isinstance(patch, int) else tuple(patch)
    cell = int(factor) * int(sides[-1])
    tokens = (int(height) // cell) * (int(width) // cell)
    if frames is None:
        return tokens
    deep = sides[0] if len(sides) == 3 else setting(denoiser, "patch_size_t") or 1
    latent_frames = (int(frames) - 1) // int(_first(pipe, TEMPORAL) or 1) + 1
    return max(1, latent_frames // int(deep)) * tokens


def _packs(pipe: Any, denoiser: Any) -> bool:
    """Return whether a pipeline makes tokens of 2 x 2 latent pixels before the denoiser does."""
    if not is_modular(pipe):
        return hasattr(pipe, "_pack_latents")
    channels = getattr(pipe, "num_channels_latents", None)
    return channels is not None and setting(denoiser, "in_channels") == 4 * channels


def _first(pipe: Any, names: tuple[str, ...]) -> Any | None:
    return next((getattr(pipe, name) for name in names if getattr(pipe, name, None)), None)


def _argument(pipe: Any, call: Mapping[str, Any], name: str) -> Any | None:
    """Return an argument of the call, by default the pipeline's own default."""
    known = call_parameters(pipe)
    default = known[name].default if name in known else None
    if default is None and is_modular(pipe):
        default = getattr(pipe, f"default_{name}", None)
    value = call.get(name)
    return default if value is None else value
