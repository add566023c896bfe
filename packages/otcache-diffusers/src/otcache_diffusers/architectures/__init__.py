"""Costs of published image models, counted from their full-size configurations on the meta device."""
