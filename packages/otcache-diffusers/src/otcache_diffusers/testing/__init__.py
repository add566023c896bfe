"""The executor's conformance tests on a family of pipelines, for packages that bring families."""

from otcache_diffusers.testing.families import (
    Calls,
    Case,
    Family,
    FamilyLaws,
    N,
    Outputs,
    Runs,
    same_tensors,
)

__all__ = ["Calls", "Case", "Family", "FamilyLaws", "N", "Outputs", "Runs", "same_tensors"]
