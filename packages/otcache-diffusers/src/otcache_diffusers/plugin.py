"""Offers the plugins of otcache-diffusers."""
