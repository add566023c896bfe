"""Modules that train and measure the glyph reader of otcache-diffusers."""
