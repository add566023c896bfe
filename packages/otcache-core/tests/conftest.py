"""Schedules, policies and files that several test modules use; helpers beside them can be imported."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from threading import Lock

import hypothesis
import msgspec
import numpy as np
import pytest

from otcache_core import Policy, Provenance, Schedule
from otcache_core.calibration import Calibration, Candidate, Rung
from otcache_core.plugins import plugin_scan
from otcache_core.plugins.discovery import HookEntryPoint
from otcache_core.plugins.scan_worker import scan_module

sys.path.insert(0, str(Path(__file__).parent))
#: Without a deadline, since shared machines are slow; ``OTCACHE_EXAMPLES=100`` draws more examples.
hypothesis.settings.register_profile(
    "otcache-core", deadline=None, max_examples=int(os.environ.get("OTCACHE_EXAMPLES", "20"))
)
hypothesis.settings.load_profile("otcache-core")

FLUX = (0, 1, 3, 7, 14, 21, 28, 35, 42, 49)


def fitted(num_steps: int, computed: tuple[int, ...], strength: float) -> Schedule:
    """Weights of memory 3 with simple numbers."""
    rows = [(0.01, strength, strength / 2)[: min(3, m + 1)] for m in range(len(computed))]
    return Schedule(num_steps, computed).with_weights(rows)


@pytest.fixture
def provenance() -> Provenance:
    grid = (np.linspace(1.0, 0.0, 51) ** 1.2).tolist()
    return Provenance.from_dict(
        {
            "model_class": "FluxTransformer2DModel",
            "config_hash": "ab12",
            "scheduler_class": "FlowMatchEulerDiscreteScheduler",
            "prediction_type": "flow",
            "guidance": 3.5,
            "resolution": 64,
            "num_steps": 50,
            "grid": grid,
            "prompts_digest": "cafe",
            "versions": {"torch": "2.5"},
        }
    )


@pytest.fixture
def policy(provenance: Provenance) -> Policy:
    anchor, reference = fitted(50, (0, 1, 7, 20), 0.4), fitted(50, FLUX, 0.2)
    return Policy(anchor, reference, provenance, ladder=(anchor, reference))


@pytest.fixture
def policy_file(policy: Policy, tmp_path: Path) -> Path:
    path = tmp_path / "flux.otcache"
    policy.save(path)
    return path


@pytest.fixture
def calibration() -> Calibration:
    n = 6
    rng = np.random.default_rng(0)
    anchor, reference = Schedule(n, (0, 2)), fitted(n, (0, 1, 3), 0.3)
    return Calibration(
        provenance={"num_steps": n, "model_class": "Toy"},
        num_steps=n,
        grid=np.linspace(1.0, 0.0, n + 1),
        samples=("a cat, seed 0", "a dog, seed 0"),
        gram=np.eye(n),
        span_costs=np.triu(rng.random((n, n + 1)), k=2),
        anchor=anchor,
        reference=reference,
        ladder=(
            Rung(anchor, 0.5, "planned, reuse", {"planned, reuse": Candidate(0.5, 2)}),
            Rung(
                reference,
                0.1,
                "quantile",
                {"quantile": Candidate(0.1, 2), "uniform, reuse": Candidate(0.7, 1)}
                | {"uniform, linear": Candidate(None, 1)},
            ),
        ),
        nfe={"record": 12, "anchor": 24},
        span_costs_nfe=30,
        span_costs_samples=2,
        fidelity="latent-rmse",
    )


@pytest.fixture
def spoil(policy_file: Path) -> Callable[[str, str], Path]:
    """Replace text in the policy file."""

    def replace(old: str, new: str) -> Path:
        text = policy_file.read_text()
        assert old in text
        policy_file.write_text(text.replace(old, new))
        return policy_file

    return replace


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read hook modules in this process and forget them, which is faster than in children."""
    lock = Lock()

    def scan_one(point: HookEntryPoint, targets: bool, *given: object) -> plugin_scan.ScanResult:
        with lock, io.StringIO() as output:
            with redirect_stdout(output), redirect_stderr(output):
                found = scan_module(point.name, point.module, point.distribution, targets=targets)
            sys.modules.pop(point.module, None)
            return msgspec.structs.replace(found, version=point.version, printed=output.getvalue())

    monkeypatch.setattr(plugin_scan, "_scan_one", scan_one)
