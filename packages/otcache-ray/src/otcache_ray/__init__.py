"""otcache on Ray: a callable for Ray Data, a Ray Serve deployment, and the runner behind ``--runner ray``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from otcache_ray.generator import Generator
    from otcache_ray.serving import Server, app

__all__ = ["Generator", "Server", "app"]
_PLACES = dict.fromkeys(("Server", "app"), "otcache_ray.serving")
_PLACES["Generator"] = "otcache_ray.generator"


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
