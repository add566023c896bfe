"""The skeleton loads as a plugin."""

from otcache_core.plugins import Registry
from otcache_video import plugin


def test_the_plugin_module_registers() -> None:
    registry = Registry(entry_points=False)
    registry.register(plugin, "otcache-video")
    assert registry.problems == ()
