"""The shipped pipeline, and the command line on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import otcache
from otcache import cli
from otcache_core.plugins import Registry
from otcache_core.policy import Policy, Provenance
from otcache_diffusers import demo

N = 8


@pytest.fixture(scope="module")
def pipe() -> Any:
    return demo.load()


def _make(pipe: Any, steps: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    call = {**demo.CALL, "num_inference_steps": steps, "generator": generator}
    latents: torch.Tensor = pipe(
        "a large red circle on a white background", output_type="latent", **call
    )[0]
    return latents


def _policy(path: Path, **facts: Any) -> Path:
    Policy(
        anchor=otcache.Schedule(N, (0, 3)),
        reference=otcache.Schedule(N, (0, 1, 3, 5)),
        provenance=Provenance(num_steps=N, **facts),
    ).save(path)
    return path


def test_both_levels_of_caching(pipe: Any) -> None:
    """A policy runs at the level of blocks too; there only the blocks are passed over."""
    plain, before = _make(pipe, N), sorted(vars(pipe.transformer))
    policy = Policy(
        anchor=otcache.Schedule(N, (0, 3)),
        reference=otcache.Schedule(N, (0, 1, 3, 5)),
        provenance=Provenance(num_steps=N),
    )
    made, embeds = {}, []
    tap = pipe.transformer.x_embedder.register_forward_hook(lambda *call: embeds.append(1))
    for executor, calls in ((None, 4), ("torch-blocks", N)):
        embeds.clear()
        handle = otcache.enable(pipe, policy, 4, executor=executor)
        made[executor] = _make(pipe, N)
        assert handle.run is not None
        assert handle.run.report.skipped == {"cond": N - 4, "uncond": N - 4}
        handle.remove()
        assert len(embeds) == 2 * calls
    tap.remove()
    with otcache.accelerate(pipe, policy.schedule(4), executor="torch-blocks"):
        assert torch.equal(_make(pipe, N), made["torch-blocks"])
    assert not torch.equal(made[None], made["torch-blocks"])
    assert not torch.equal(made["torch-blocks"], plain)
    assert sorted(vars(pipe.transformer)) == before
    with pytest.raises(otcache.OtcacheError, match="torch-block"):
        otcache.accelerate(pipe, policy, 4, executor="torch-block")


def test_what_ships_is_small_and_whole() -> None:
    files = [path for path in demo.folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16e6
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]


def test_held_out_prompts_were_not_calibrated_on() -> None:
    prompts = demo.prompts()
    calibration = {text for text, _ in prompts["calibration"]}
    assert len(prompts["heldout"]) >= 16
    assert calibration.isdisjoint(text for text, _ in prompts["heldout"])
    assert calibration.isdisjoint(text for text, _ in prompts["novel"])


def test_the_demo_is_offered_as_a_plugin() -> None:
    made = Registry().get("demos", "image")()
    assert made.load is demo.load
    assert set(made.prompts) >= {"calibration", "heldout", "novel"}


def test_skipped_steps_call_no_transformer(pipe: Any) -> None:
    calls: list[int] = []
    block = pipe.transformer.transformer_blocks[0]
    handle = block.register_forward_hook(lambda *_: calls.append(1))
    with otcache.accelerate(pipe, otcache.Schedule(N, (0, 2, 5))) as run:
        _make(pipe, N)
    handle.remove()
    branches = len(run.report.computed)
    assert len(calls) == 3 * branches
    assert run.report.skipped == dict.fromkeys(run.report.computed, N - 3)
    assert run.report.peak_cached_bytes > 0


def test_all_computed_is_bit_identical(pipe: Any) -> None:
    plain = _make(pipe, N)
    with otcache.accelerate(pipe, otcache.Schedule.full(N)):
        accelerated = _make(pipe, N)
    assert torch.equal(plain, accelerated)


def _run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["otcache", "run", "demo", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, " ".join(captured.err.split())


def _words(tmp_path: Path, policy: Path) -> list[object]:
    image = tmp_path / "made.png"
    return ["--policy", policy, "--budget", 3, "--prompt", "a cat", "--out", image]


def test_run_writes_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = _policy(tmp_path / "p.otcache")
    status, out, err = _run(monkeypatch, capsys, *_words(tmp_path, policy), "--json")
    assert status == 0, err
    assert (tmp_path / "made.png").read_bytes().startswith(b"\x89PNG")
    assert set(json.loads(out)["computed"].values()) == {3}


def test_a_policy_of_another_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = _policy(tmp_path / "p.otcache", model_class="UNet2DConditionModel")
    status, _, err = _run(monkeypatch, capsys, *_words(tmp_path, policy))
    assert status == 2
    assert "got 'FluxTransformer2DModel', expected 'UNet2DConditionModel'" in err
    assert not (tmp_path / "made.png").exists()


def test_another_step_count_is_mapped_with_a_notice_and_refused_when_strict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = _policy(tmp_path / "p.otcache")
    words = [*_words(tmp_path, policy), "--steps", 6]
    status, _, err = _run(monkeypatch, capsys, *words)
    assert status == 0, err
    assert "6 steps, the policy was measured on 8" in err
    status, _, err = _run(monkeypatch, capsys, *words, "--strict")
    assert status == 2
    assert "8" in err
