"""Baselines that are caches of diffusers itself: its own classes, enabled and taken off, never patched."""
