"""Which installed plugin serves a target."""

from __future__ import annotations

from typing import Any

from otcache_core import OtcacheError
from otcache_core.plugins import Registry


def choose(registry: Registry, kind: str, target: Any) -> Any:
    """The first probe or executor, by name, that supports the target.

    Args:
        registry: where plugins come from.
        kind: ``probes`` or ``executors``.
        target: a pipeline, a loop or a module.

    Raises:
        OtcacheError: if none does; the message gives each one's reason, or the extra to install.
    """
    reasons = []
    for record in registry.infos(kind):
        plugin = registry.create(kind, record.info.name)
        reason = plugin.supports(target)
        if not reason:
            return plugin
        reasons.append(f"{record.info.name}: {reason}")
    if not reasons:
        raise OtcacheError(f"no {kind} are installed: pip install 'otcache[diffusers]'")
    raise OtcacheError(f"{type(target).__name__} cannot be used: {'; '.join(reasons)}")
