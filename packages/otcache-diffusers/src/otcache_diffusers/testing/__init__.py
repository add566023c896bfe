"""The executor's laws on a family of pipelines, for packages that bring families."""

from otcache_diffusers.testing.case import Case, Family, N
from otcache_diffusers.testing.laws import Calls, FamilyLaws, Outputs, same_tensors

__all__ = ["Calls", "Case", "Family", "FamilyLaws", "N", "Outputs", "same_tensors"]
