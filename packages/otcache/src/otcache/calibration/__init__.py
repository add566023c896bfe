"""Measure a pipeline once: calibrate goes through recipe, record (with store), stages (with contest) and gaps."""
