"""Measure a pipeline once: recipe, record, stages, contest, store; ``calibrate`` is the way through them."""
