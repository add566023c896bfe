"""The caches of cache-dit, run by cache-dit itself."""
