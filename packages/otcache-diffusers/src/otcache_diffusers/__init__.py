"""Probe, executor, evaluator and image metrics of otcache for diffusers and any torch denoiser."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["SigmaExport", "export_sigmas"]


def __getattr__(name: str) -> Any:
    """Import torch and diffusers when a public name is first used, so that listing plugins stays fast."""
    if name in __all__:
        from otcache_diffusers import export

        return getattr(export, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
