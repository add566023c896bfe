"""Without Ray there is nothing to test here: ``nox -s ray`` has it."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("ray") else ["test_on_ray.py"]
