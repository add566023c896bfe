"""Which installed plugin serves a target."""

from __future__ import annotations

from typing import Any, overload

from otcache_core import OtcacheError, PluginError
from otcache_core.contracts import CacheExecutor, FeatureProbe
from otcache_core.errors import expected
from otcache_core.plugins import Registry
from otcache_core.plugins.info import reason_of
from otcache_core.plugins.lookups import Executors, Probes


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
    """The first probe or executor that supports the target, or the named one.

    Otcache's own and those registered by hand are asked first, by name; foreign ones, which have to be
    imported for it, only where none of these supports the target. One that raises when it is asked is
    passed over with a warning.

    Args:
        registry: where plugins come from.
        kind: ``probes`` or ``executors``.
        target: a pipeline, a loop or a module.
        name: of a plugin, where only that will do.

    Raises:
        OtcacheError: if none does, or there is none of that name; the message gives each one's reason,
            or the extra to install.
    """
    if name is not None:
        plugin = registry.create(kind, name)
        try:
            reason = supported(plugin, target)
        except BaseException as error:
            said = str(error) if isinstance(error, OtcacheError) else reason_of(error)
            raise PluginError(f"{kind} {name!r} does not say what it supports: {said}") from error
        if not reason:
            return plugin
        raise OtcacheError(f"{type(target).__name__} cannot be used: {name}: {reason}")
    reasons = []
    for offer in registry.candidates(kind):
        try:
            plugin = registry.create(kind, offer.qualified_name)
            reason = supported(plugin, target)
        except BaseException as error:
            reason = registry.failed(offer, error)
        else:
            if not reason:
                return plugin
        reasons.append(f"{offer.info.name}: {reason}")
    if not reasons:
        raise OtcacheError(f"no {kind} are installed: pip install 'otcache[diffusers]'")
    raise OtcacheError(f"{type(target).__name__} cannot be used: {'; '.join(reasons)}")


def supported(plugin: FeatureProbe | CacheExecutor, target: Any) -> str:
    """Ask a plugin whether it supports a target; "" if it does.

    Raises:
        OtcacheError: if what it says is no text.
    """
    reason: object = plugin.supports(target)
    if not isinstance(reason, str):
        wanted = "a text, '' where it supports the target"
        raise OtcacheError(expected(f"{type(plugin).__name__}.supports()", reason, wanted))
    return reason
