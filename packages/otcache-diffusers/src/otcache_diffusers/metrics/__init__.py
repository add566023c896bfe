"""Image metrics: of accelerated pictures against the full run's, of prompts, of all pictures."""
