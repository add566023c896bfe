"""Probes, executors, evaluator and image metrics of otcache for diffusers pipelines and any torch denoiser."""

__version__ = "0.1.0"
