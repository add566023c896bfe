"""Skip steps: executor and block_executor drive cached_steps, which forecasts from output_cache.

block_trace finds block_stacks in a computed call, and block_calls passes them over in later ones.
"""
