"""The command line, the same verbs as the library: app reads it, a file a group of verbs, output prints."""

from otcache.cli.app import app, main

__all__ = ["app", "main"]
