"""Image metrics: accelerated pictures against the full run's, one number a pair."""
