"""The laws of a peer for those of cache-dit; test_peers_cache_dit.py runs this in another process."""

from __future__ import annotations

from flux_laws import FluxLaws


class TestDBCache(FluxLaws):
    name = "dbcache"


class TestDBCacheTaylorSeer(FluxLaws):
    name = "dbcache-taylorseer"


class TestDBCacheMask(FluxLaws):
    name = "dbcache-mask"
