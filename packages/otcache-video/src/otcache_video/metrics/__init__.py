"""Metrics of accelerated clips against the full run's, over time."""
