"""The two demo models: scenes and prompts, their text encoders, training, and the sheets of samples."""
