"""What ``otcache plugins`` does: write a package, check a plugin by its kit, find what is wrong with all."""
