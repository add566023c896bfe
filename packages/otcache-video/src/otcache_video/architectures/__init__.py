"""Published video models at full size, measured on the meta device: no weights, no memory."""
