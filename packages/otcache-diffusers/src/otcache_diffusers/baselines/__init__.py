"""Baselines for ``otcache compare``: caches of diffusers and of cache-dit, TeaCache, and fewer steps.

Each plugin's module builds on what its kind shares: ``diffusers_caches`` for caches that diffusers enables,
``cache_dit`` for DBCache, ``teacache_blocks`` for TeaCache, ``flow_solvers`` for fewer steps.
"""
