"""Plugins: descriptors and hooks (info), where they come from (discovery), and lookup by name.

``lookups`` finds by kind and name, and ``registry`` holds all. Foreign plugins are listed by child processes:
``plugin_scan`` starts them, ``scan_worker`` runs in them.
"""

from otcache_core.plugins.discovery import RegistryDescription
from otcache_core.plugins.info import API_VERSION, KINDS, Info, hookimpl
from otcache_core.plugins.lookups import Offer
from otcache_core.plugins.registry import Registry, forget_installed, installed

__all__ = [
    "API_VERSION",
    "KINDS",
    "Info",
    "Offer",
    "Registry",
    "RegistryDescription",
    "forget_installed",
    "hookimpl",
    "installed",
]
