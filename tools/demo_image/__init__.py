"""Modules that render, train and sample the demo picture model of otcache-diffusers."""
