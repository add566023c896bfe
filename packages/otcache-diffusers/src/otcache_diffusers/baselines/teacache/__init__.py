"""TeaCache: skip while the input of the first block has not changed much."""
