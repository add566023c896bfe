"""Samplers that simply take fewer steps: what any cache has to beat.

Each function makes a peer; :data:`SAMPLERS` are the samplers alone, for a scheduler at hand.
"""

from __future__ import annotations

from otcache_diffusers.peers.fewer_steps.adams_bashforth import AdamsBashforth
from otcache_diffusers.peers.fewer_steps.borrowed import DPMPP, EULER, HEUN, UNIPC
from otcache_diffusers.peers.fewer_steps.own import Own
from otcache_diffusers.peers.fewer_steps.peer import FewerSteps
from otcache_diffusers.peers.fewer_steps.sampler import FewStepSampler

__all__ = ["SAMPLERS", "FewStepSampler", "FewerSteps"]

#: By the last part of the peer's name.
SAMPLERS: dict[str, FewStepSampler] = {
    "own": Own(),
    "euler": EULER,
    "adams-bashforth": AdamsBashforth(),
    "dpmpp": DPMPP,
    "unipc": UNIPC,
    "heun": HEUN,
}


def own() -> FewerSteps:
    """The pipeline's own sampler on B steps."""
    return FewerSteps(SAMPLERS["own"])


def euler() -> FewerSteps:
    """Euler on B steps."""
    return FewerSteps(SAMPLERS["euler"])


def adams_bashforth() -> FewerSteps:
    """Two-step Adams-Bashforth on B steps."""
    return FewerSteps(SAMPLERS["adams-bashforth"])


def dpmpp() -> FewerSteps:
    """DPM-Solver++(2M) on B steps."""
    return FewerSteps(SAMPLERS["dpmpp"])


def unipc() -> FewerSteps:
    """UniPC of order 2 on B steps."""
    return FewerSteps(SAMPLERS["unipc"])


def heun() -> FewerSteps:
    """Heun's method with B evaluations."""
    return FewerSteps(SAMPLERS["heun"])
