"""Recording a 720p video takes next to no memory, and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "probe_memory.py"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
def test_the_probe_of_a_720p_video_stays_within_three_latents_and_256_mb(tmp_path: Path) -> None:
    settings = ["--steps", "4", "--ways", "bare", "probe", "costs", "--samplers", "euler"]
    subprocess.run([sys.executable, SCRIPT, tmp_path, *settings], check=True)
    found = json.loads((tmp_path / "memory.json").read_text())
    bare, probe, costs = found["rows"]
    assert found["latent_mb"] == 4 * 16 * 33 * 90 * 160 / 1e6
    for row in (probe, costs):
        assert row["digest"] == bare["digest"]
        assert row["peak_mb"] - bare["peak_mb"] <= 3 * found["latent_mb"] + 256
    (notice,) = probe["notices"]
    assert notice.startswith("recording keeps 0.27 GB of states and outputs on the disk")
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".f32"] == []
