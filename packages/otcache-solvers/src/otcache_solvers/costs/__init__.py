"""Cost models: what a span of skipped steps is expected to cost.

In order: ``samples`` checks recorded runs and keeps costs per sample; ``gram``, ``mean_velocity`` and
``displacement`` need recorded runs alone, the last with ``propagation``, and ``outcome``, also the pipeline.
"""
