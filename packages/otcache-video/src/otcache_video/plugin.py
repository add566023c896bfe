"""Offers the plugins of otcache-video: none yet; video pipelines come in a later release."""
