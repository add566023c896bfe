"""Image metrics: of accelerated images against the full run's, of images and prompts, of all images together.

Images pass ``checks`` first; ``backbones`` holds the networks of ``lpips`` and ``frechet``.
"""
