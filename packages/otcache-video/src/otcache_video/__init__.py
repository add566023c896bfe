"""Video pipelines for otcache."""

__version__ = "0.1.0"
