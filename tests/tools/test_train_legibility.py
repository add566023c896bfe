"""The glyph reader's training: its images, its distortions, and one step of it."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from demo_models import scenes  # noqa: E402
from legibility import images, measuring, training  # noqa: E402
from legibility.images import augment  # noqa: E402

from otcache_diffusers.metrics.legible import CLASSES, GlyphReader, scores  # noqa: E402

DRAWN = ("shape",)
"""Scenes without a glyph that need no sprite."""


def pool(seed: int, count: int) -> images.Pool:
    return images.render_pool(images.labelled_scenes(seed, DRAWN), count, {})


class Echo:
    """An autoencoder whose latents are the images."""

    config = SimpleNamespace(scaling_factor=1.0)

    def encode(self, x: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: x))

    def decode(self, z: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=z)


def test_the_classes_are_the_scenes_glyphs_and_none() -> None:
    assert (*scenes.LETTERS, *scenes.DIGITS, "") == CLASSES


def test_same_seed_gives_the_same_images_and_labels() -> None:
    first, second, other = pool(1, 12), pool(1, 12), pool(2, 12)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert not torch.equal(first.images, other.images)


def test_an_image_s_label_is_what_its_caption_asks_for() -> None:
    for scene in islice(images.labelled_scenes(3), 300):
        assert CLASSES[images.label(scene)] == measuring.asked(scene.caption)


def test_a_fifth_shows_no_glyph_and_some_of_it_nothing_at_all() -> None:
    drawn = list(islice(images.labelled_scenes(4), 2000))
    none = [scene for scene in drawn if images.label(scene) == images.NONE]
    assert 0.17 < len(none) / len(drawn) < 0.23
    assert any(not scene.things for scene in none)
    assert {scene.tag for scene in none} == set(images.OTHERS)


def test_moved_glyphs_stay_inside_the_image() -> None:
    plain = pool(5, 200)
    edges = torch.cat([plain.images[:, :, side].flatten(1) for side in (0, -1)], dim=1)
    corner = plain.images[:, :, 0, 0].repeat_interleave(64, dim=1)
    cut = (edges != torch.cat((corner, corner), dim=1)).any(dim=1)
    assert not cut.any()


def test_the_autoencoder_s_noise_is_bounded_and_drowned_glyphs_are_none() -> None:
    plain = pool(6, 400)
    generator = torch.Generator().manual_seed(0)
    noisy = images.reconstructed(Echo(), plain, generator)
    drowned = (noisy.labels == images.NONE) & (plain.labels != images.NONE)
    assert 2 <= drowned.sum() <= 30
    change = (noisy.images.float() - plain.images.float()).abs().mean(dim=(1, 2, 3))
    assert change[drowned].min() > change[noisy.labels != images.NONE].max()


def test_without_noise_a_reconstruction_by_identity_changes_nothing() -> None:
    plain = pool(7, 5)
    again = images.reconstruct(Echo(), plain.images, torch.zeros(5), torch.Generator())
    assert torch.equal(again, plain.images)


def test_distortions_are_deterministic_and_stay_in_range() -> None:
    x = pool(8, 6).images.float() / 255
    first, second = (augment(x, torch.Generator().manual_seed(s)) for s in (0, 0))
    assert torch.equal(first, second)
    assert first.shape == x.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert (first - x).abs().mean() > 0.01


def test_distortions_keep_a_image_upright_and_unmirrored() -> None:
    x = torch.zeros(50, 3, 64, 64)
    x[:, :, :24, :24] = 1.0
    grey = augment(x, torch.Generator().manual_seed(0)).mean(dim=1)
    corners = torch.stack([grey[:, i : i + 12, j : j + 12] for i in (4, 48) for j in (4, 48)])
    apart = (corners.mean(dim=(2, 3)) - grey[:, 26:38, 40:52].mean(dim=(1, 2))).abs()
    assert (apart.argmax(dim=0) == 0).all()


def test_steps_lower_the_loss_on_their_own_images() -> None:
    torch.set_num_threads(1)
    weights = training.new_weights(0)
    optimizer = training.new_optimizer(weights)
    batch = pool(9, 16)
    x = batch.images.float() / 255
    losses = [training.train_step(weights, optimizer, x, batch.labels) for _ in range(2)]
    assert losses[1] < losses[0]


def test_training_is_deterministic_and_its_file_is_read(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    plan, batch = training.Plan(steps=2), pool(10, 8)
    first, second = (training.train(batch, plan) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    path = tmp_path / "folder" / "glyphs.safetensors"
    training.save(first, path)
    x = batch.images.permute(0, 2, 3, 1).numpy() / 255
    halves = {name: tensor.half().float() for name, tensor in first.items()}
    best = scores(batch.images.float() / 255, halves).argmax(dim=1)
    assert GlyphReader(path).read(x) == tuple(CLASSES[k] for k in best.tolist())


def test_the_prompts_measured_ask_for_every_glyph_equally_often() -> None:
    captions = measuring.glyph_captions()
    asked = [measuring.asked(caption) for caption in captions]
    assert {name: asked.count(name) for name in CLASSES if name} == dict.fromkeys(CLASSES[:-1], 4)
    assert len(set(captions)) == len(captions)
    assert measuring.asked("a blue star left of a red ring on a white background") == ""
