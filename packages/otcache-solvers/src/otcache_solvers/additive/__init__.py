"""Solvers of costs that add up along a path, or whose largest counts.

``shortest_path`` takes one cost a span, ``second_order`` a cost that depends on the span before.
"""
