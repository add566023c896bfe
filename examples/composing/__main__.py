"""Run it: ``cd examples``, then ``python -m composing``."""

from __future__ import annotations

import otcache
from composing import logs, outside, pipelines, service
from composing.plugins import private_registry


def main() -> None:
    """Plan, serve, and follow elsewhere what was planned."""
    logs.begin()
    registry = private_registry()
    calibration = service.calibrated(registry)
    pipelines.main(service.main(calibration, registry), registry)
    outside.main(otcache.plan(calibration, registry=registry), registry)


if __name__ == "__main__":
    main()
