"""Solvers of costs that add up along a path, or whose largest counts; ``open_loop`` prices two terms."""
