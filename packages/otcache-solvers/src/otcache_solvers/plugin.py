"""Offers the plugins of otcache-solvers."""
