"""What finds other plugins where it was found itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from otcache_core.plugins.registry import Registry


class FromRegistry:
    """A plugin that may look up other plugins, of the names that schedules and jobs hold.

    Law: it finds them in :attr:`registry` and nowhere else, so that two registries in one process do not
    see each other's. Probes, executors and baselines are of this kind.
    """

    _otcache_registry: Registry | None = None

    @property
    def registry(self) -> Registry:
        """The registry that created this plugin, known inside ``__init__`` too.

        Of an object that was made by hand it is that of the installed plugins.
        """
        if self._otcache_registry is not None:
            return self._otcache_registry
        from otcache_core.plugins.registry import installed

        return installed()

    @classmethod
    def made_by(cls, registry: Registry, /, *args: Any, **kwargs: Any) -> Self:
        """Make one as the class itself would, with its registry; ``Registry.create`` calls this."""
        plain: Any = cls
        made = plain.__new__(cls, *args, **kwargs)
        object.__setattr__(made, "_otcache_registry", registry)  # it may be a frozen dataclass
        plain.__init__(made, *args, **kwargs)
        return made  # type: ignore[no-any-return]  # by __new__ of the class
