"""The command line: app reads it, options checks its values, a file a group runs its verbs, output prints."""

from otcache.cli.app import app, main

__all__ = ["app", "main"]
