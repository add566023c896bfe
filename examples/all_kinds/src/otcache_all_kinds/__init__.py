"""One small plugin of every kind, and a sampler in numpy to use them on."""
