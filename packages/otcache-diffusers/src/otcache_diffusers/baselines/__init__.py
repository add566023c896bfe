"""Rivals for ``otcache compare``: caches of other projects, published rules, and fewer steps."""
