"""Which installed plugin serves a target."""

from __future__ import annotations

from typing import Any, overload

from otcache_core import OtcacheError
from otcache_core.contracts import CacheExecutor, FeatureProbe
from otcache_core.plugins import Registry
from otcache_core.plugins.kinds import Executors, Probes


@overload
def choose(
    registry: Registry, kind: Probes, target: Any, name: str | None = None
) -> FeatureProbe: ...
@overload
def choose(
    registry: Registry, kind: Executors, target: Any, name: str | None = None
) -> CacheExecutor: ...
def choose(
    registry: Registry, kind: Probes | Executors, target: Any, name: str | None = None
) -> FeatureProbe | CacheExecutor:
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
