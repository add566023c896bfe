"""Plugins: descriptors and hooks (info), where they come from (discovery, census), and their registry.

Foreign ones are listed by child processes (census starts them, reading runs in them); lookups finds by name.
"""

from otcache_core.plugins.discovery import RegistryDescription
from otcache_core.plugins.info import API_VERSION, KINDS, Info, hookimpl
from otcache_core.plugins.lookups import Offer
from otcache_core.plugins.registry import Problem, Registry, forget_installed, installed

__all__ = [
    "API_VERSION",
    "KINDS",
    "Info",
    "Offer",
    "Problem",
    "Registry",
    "RegistryDescription",
    "forget_installed",
    "hookimpl",
    "installed",
]
