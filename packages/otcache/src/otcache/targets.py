"""Which installed plugin serves a target."""

from __future__ import annotations

from typing import Any

from otcache_core import OtcacheError
from otcache_core.plugins import Registry


def choose(registry: Registry, kind: str, target: Any, name: str | None = None) -> Any:
    """The first probe or executor, by name, that supports the target; or the named one.

    Args:
        registry: where plugins come from.
        kind: ``probes`` or ``executors``.
        target: a pipeline, a loop or a module.
        name: of a plugin, where only that will do.

    Raises:
        OtcacheError: if none does, or there is none of that name; the message gives each one's reason,
            or the extra to install.
    """
    reasons = []
    names = [record.info.name for record in registry.infos(kind)] if name is None else [name]
    for known in names:
        plugin = registry.create(kind, known)
        reason = plugin.supports(target)
        if not reason:
            return plugin
        reasons.append(f"{known}: {reason}")
    if not reasons:
        raise OtcacheError(f"no {kind} are installed: pip install 'otcache[diffusers]'")
    raise OtcacheError(f"{type(target).__name__} cannot be used: {'; '.join(reasons)}")
