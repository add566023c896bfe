"""Plugins: descriptors, hooks and the registry that isolates them."""

from otcache_core.plugins.hookspecs import hookimpl
from otcache_core.plugins.info import API_VERSION, KINDS, Info
from otcache_core.plugins.registry import Offer, Problem, Registry

__all__ = ["API_VERSION", "KINDS", "Info", "Offer", "Problem", "Registry", "hookimpl"]
