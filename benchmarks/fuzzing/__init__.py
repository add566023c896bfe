"""Damage to files: a mutation of a valid file, the loader that reads it, and what becomes of it."""
