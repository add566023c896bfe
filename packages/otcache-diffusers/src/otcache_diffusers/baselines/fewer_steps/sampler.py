"""What a sampler of fewer steps must tell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class FewStepSampler(ABC):
    """Makes a scheduler that stands in for a pipeline's own one.

    Law: the pipeline's own scheduler is not changed. With the one made here a call of n steps visits the
    noise levels that n steps of the own one visit, or, where a solver is built from the own one's
    configuration, those this gives.
    """

    @property
    @abstractmethod
    def source(self) -> str:
        """Library, version and rule."""

    @abstractmethod
    def why_not(self, own: Any) -> str:
        """Return "" if it fits the pipeline's own scheduler, else the reason why not.

        Must be cheap and change nothing.
        """

    @abstractmethod
    def scheduler(self, own: Any) -> Any:
        """A scheduler to put on the pipeline instead of ``own``."""
