"""The shipped video pipeline on the command line: a run to a file, and the demo from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

import otcache
from otcache import cli
from otcache.calibration.recipe import Recipe
from otcache.comparison.bench import Bench
from otcache.comparison.timing import ROUNDS, Pair
from otcache.demo.preset import BASELINES, DemoSettings
from otcache.pipelines import find_demo
from otcache.report import rebuild
from otcache.report.results import Results
from otcache_core.models import Demo
from otcache_core.plugins import Registry
from otcache_core.policy import Policy, Provenance

N, BUDGET = 9, 2
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; gives (status, standard output, standard error)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["otcache", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, " ".join(captured.err.split())

    return call


@pytest.fixture
def words(tmp_path: Path) -> list[object]:
    """``run demo:video`` under a policy of nine steps."""
    path = tmp_path / "p.otcache"
    anchor, reference = otcache.Schedule(N, (0, 3)), otcache.Schedule(N, (0, 1, 3))
    Policy(anchor, reference, Provenance(num_steps=N)).save(path)
    return ["run", "demo:video", "--policy", path, "--budget", BUDGET, "--prompt", "a red circle"]


def _demo() -> Demo:
    demo = find_demo("demo:video", Registry())
    assert demo is not None
    return demo


def _decoded(path: Path) -> tuple[int, tuple[int, int], float]:
    """Frames, size and rate of an MP4 file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        rate = float(stream.average_rate or 0)
    return len(frames), (frames[0].height, frames[0].width), rate


def test_a_run_writes_a_video_that_decodes(run: Run, words: list[object], tmp_path: Path) -> None:
    demo = _demo()
    status, out, err = run(*words, "--out", tmp_path / "video.mp4", "--json")
    assert status == 0, err
    said = json.loads(out)
    assert said["file"] == str(tmp_path / "video.mp4")
    assert set(said["computed"].values()) == {BUDGET}
    frames, size, rate = _decoded(tmp_path / "video.mp4")
    assert (frames, rate) == (demo.call["num_frames"], demo.frames_per_second)
    assert (size[0] % demo.call["height"], size[1] % demo.call["width"]) == (0, 0)


def test_the_frame_rate_can_be_chosen(run: Run, words: list[object], tmp_path: Path) -> None:
    status, _, err = run(*words, "--out", tmp_path / "video.webp", "--fps", 4)
    assert status == 0, err
    with Image.open(tmp_path / "video.webp") as video:
        video.load()
        assert video.info["duration"] == 250


def test_a_video_is_no_image(run: Run, words: list[object], tmp_path: Path) -> None:
    status, _, err = run(*words, "--out", tmp_path / "video.png")
    assert status == 2
    assert "name of a video must be one that ends on .mp4 or .webp" in err
    assert not (tmp_path / "video.png").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("num_inference_steps=5", "the number of steps comes from --steps, the policy or the demo"),
        ("prompt=x", "prompts come from --prompt or --prompts, or the demo"),
        ("output_type=latent", "otcache decodes what it needs"),
        ("directory=x", "it is not an argument of a pipeline call"),
    ],
)
def test_what_otcache_gives_the_pipeline_itself_is_not_taken(
    run: Run, given: str, said: str
) -> None:
    status, _, err = run("demo", "--video", "--set", given)
    assert status == 2
    assert said in err


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide a demo of a few seconds."""
    settings = DemoSettings(
        pipeline="demo:video",
        num_steps=N,
        budgets=(2, 3),
        calibration_prompts=1,
        heldout_prompts=1,
        seeds=(1000,),
        recipe=Recipe(cost_samples=1, anchor_trials=2, climb_trials=0, rounding_runs=0),
        lemica_prompts=1,
        baselines=tuple(name for name in BASELINES if name != "fewer steps, AB2"),
        metrics=(),
    )
    monkeypatch.setattr(DemoSettings, "chosen", lambda **asked: settings)
    # What timing costs is most of this demo's time, and other tests prove it.
    monkeypatch.setattr(
        Bench,
        "pairs",
        lambda self, runs, samples: {
            k: (Pair(N, run.nfe),) * ROUNDS for k, (run, _) in runs.items()
        },
    )


@pytest.mark.usefixtures("small")
def test_the_demo_from_end_to_end(run: Run, tmp_path: Path) -> None:
    status, out, err = run("demo", "--video", "--set", "guidance_scale=2", "--out", tmp_path)
    assert status == 0, err
    assert "of the best other method's" in " ".join(out.split())
    results = Results.load(tmp_path / "results.json")
    assert results.command == "otcache demo --video --set guidance_scale=2"
    assert results.provenance["guidance"] != "none"
    names = ("uniform", "fewer steps", "LeMiCa rule", "MeanCache rule", "Adams-Bashforth", "UniPC")
    rules = ("Spectrum", "HiCache", "HiCache++", "L2P", "otcache, no calibration")
    assert results.methods == (*names, *rules, "otcache")
    assert results.frames_per_second == _demo().frames_per_second
    temporal = {"flicker", "temporal-lpips", "warping-error", "motion-magnitude"}
    assert {"rmse", "psnr", "ssim", "lpips", "subject-consistency", *temporal} == set(
        results.metrics
    )
    assert Policy.load(tmp_path / "policy.otcache").num_steps == N
    videos = sorted((tmp_path / "videos").iterdir())
    assert {path.suffix for path in videos} == {".mp4", ".webp"}
    assert len(videos) == 2 * 3
    for path in videos:
        _check(path, wide="-otcache-" in path.name)
    page = (tmp_path / "report.html").read_bytes()
    rebuild(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == page


def _check(path: Path, wide: bool) -> None:
    """Return a video, or a row of three, with every frame in it."""
    call: dict[str, Any] = _demo().call
    if path.suffix == ".mp4":
        frames, (height, width), _ = _decoded(path)
    else:
        with Image.open(path) as video:
            frames, (width, height) = video.n_frames, video.size
    assert frames == call["num_frames"]
    shape = width / height * call["height"] / call["width"]
    assert shape == pytest.approx(3.0 if wide else 1.0, abs=0.15)
