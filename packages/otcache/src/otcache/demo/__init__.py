"""The demos, presets of a comparison that run in one process: preset, then showing."""
