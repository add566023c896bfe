"""Skip steps of a run: an executor drives a step hook, which forecasts from cached outputs."""
