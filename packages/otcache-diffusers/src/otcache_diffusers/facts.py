"""What binds a policy to a pipeline, read off its configuration."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from otcache_core.loop import Loop
from otcache_diffusers.driver import denoisers_of


def provenance_of(
    target: Any, num_steps: int | None, call: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The keys of :class:`otcache_core.provenance.Provenance`, without ``grid``; None is unknown.

    Args:
        target: a pipeline or a loop.
        num_steps: N.
        call: the arguments of its calls; None where unknown.
    """
    denoiser = denoisers_of(target)[""]
    loop = isinstance(target, Loop)
    return {
        "num_steps": num_steps,
        "model_class": type(denoiser).__name__,
        "config_hash": _config_hash(denoiser),
        "scheduler_class": None if loop else type(target.scheduler).__name__,
        "prediction_type": None if loop else prediction_type(target.scheduler),
        "guidance": None if loop or call is None else _guidance(target, denoiser, call),
        "resolution": None if loop or call is None else _latent_tokens(target, denoiser, call),
        "versions": {"torch": str(torch.__version__), "diffusers": diffusers.__version__},
    }


def fingerprint_of(target: Any) -> str:
    """A hash of up to 16 evenly spaced elements of every weight of the target's denoisers."""
    digest = hashlib.sha256()
    for denoiser in denoisers_of(target).values():
        for name, weight in denoiser.named_parameters():
            flat = weight.detach().reshape(-1)
            few = flat[:: max(1, flat.numel() // 16)].float().cpu().numpy()
            digest.update(name.encode() + few.tobytes())
    return digest.hexdigest()[:16]


def prediction_type(scheduler: Any) -> str:
    """``flow``, ``epsilon``, ``v_prediction`` or ``sample``."""
    if "FlowMatch" in type(scheduler).__name__:
        return "flow"
    kind = str(scheduler.config.get("prediction_type", ""))
    return "flow" if kind == "flow_prediction" else kind


def _config_hash(denoiser: torch.nn.Module) -> str:
    """Of the configuration, or of names and shapes of the weights where there is none."""
    config = getattr(denoiser, "config", None)
    if config is None:
        facts: Any = [(name, list(p.shape)) for name, p in denoiser.named_parameters()]
    else:
        facts = {key: value for key, value in dict(config).items() if not key.startswith("_")}
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _guidance(pipe: Any, denoiser: Any, call: Mapping[str, Any]) -> str:
    """``cfg 3.0``, ``embedded 3.5`` or ``none``."""
    defaults = inspect.signature(type(pipe).__call__).parameters

    def scale(name: str) -> float | None:
        value = call.get(name, defaults[name].default if name in defaults else None)
        return float(value) if isinstance(value, (int, float)) else None

    embedded = bool(denoiser.config.get("guidance_embeds", False))
    negative = any(call.get(name) is not None for name in call if name.startswith("negative_"))
    true_scale, guidance = scale("true_cfg_scale"), scale("guidance_scale")
    if true_scale is not None and true_scale > 1 and negative:
        return f"cfg {true_scale}"
    if embedded:
        return f"embedded {guidance}"
    if "true_cfg_scale" not in defaults and guidance is not None and guidance > 1:
        return f"cfg {guidance}"
    return "none"


def _latent_tokens(pipe: Any, denoiser: Any, call: Mapping[str, Any]) -> int | None:
    """Tokens of one picture; latent pixels for a UNet; None where the size is not known."""
    factor = getattr(pipe, "vae_scale_factor", None)
    side = getattr(pipe, "default_sample_size", denoiser.config.get("sample_size"))
    default = side * factor if isinstance(side, int) and isinstance(factor, int) else None
    height, width = (call.get(name) or default for name in ("height", "width"))
    if factor is None or height is None or width is None:
        return None
    patch = denoiser.config.get("patch_size") or 1
    if hasattr(pipe, "_pack_latents"):
        patch = 2
    cell = int(factor) * int(patch if isinstance(patch, int) else patch[-1])
    return (int(height) // cell) * (int(width) // cell)
