"""Measure a pipeline once: calibrate uses recipe, record (store), stages (contest) and gaps, in order."""
