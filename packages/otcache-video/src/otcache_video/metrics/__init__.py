"""Metrics of accelerated videos over time: ``pairs`` checks them, ``motion`` and ``features`` compare."""
