"""The verbs of ``otcache plugins``: listing, doctor (environment), checking (toy_kits) and new_package."""
