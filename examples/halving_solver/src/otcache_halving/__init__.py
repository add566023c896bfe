"""Compute early steps densely and late ones ever more sparsely."""
