"""The demo model's images, captions and prompts: what training and evaluation rely on."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")
np = pytest.importorskip("numpy")

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from demo_models import scenes  # noqa: E402
from demo_models.clock import Clock, cosine_with_warmup  # noqa: E402
from demo_models.prompts import make_prompts  # noqa: E402

MAX_TOKENS = 24
DRAWN = ("shape", "glyph")
"""Tags that need no sprite."""


def pixels(scene: scenes.Scene) -> np.ndarray:
    return np.asarray(scenes.render(scene, {}), dtype=int)


def test_same_seed_gives_the_same_scenes_and_images() -> None:
    first, second = (list(islice(scenes.training_scenes(7, DRAWN), 20)) for _ in range(2))
    assert first == second
    for scene in first:
        np.testing.assert_array_equal(pixels(scene), pixels(scene))


def test_another_seed_gives_other_scenes() -> None:
    first, second = (list(islice(scenes.training_scenes(seed), 20)) for seed in (1, 2))
    assert first != second


def test_an_image_holds_its_caption_s_colours() -> None:
    for scene in islice(scenes.any_scenes(3, DRAWN), 50):
        image = pixels(scene)
        assert image.shape == (64, 64, 3)
        for colour in (scene.background, scene.things[0].colour):
            matches = (image == scenes.COLOURS[colour]).all(axis=-1)
            assert matches.sum() >= 30, scene.caption


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_every_shape_stays_inside_its_radius(shape: str) -> None:
    thing = scenes.Thing(shape, "red", (32.0, 32.0), 20.0)
    image = pixels(scenes.Scene("", "shape", "white", (thing,)))
    rows, columns = np.nonzero((image != scenes.COLOURS["white"]).any(axis=-1))
    assert rows.min() >= 10
    assert columns.min() >= 10
    assert rows.max() <= 53
    assert columns.max() <= 53


@pytest.mark.parametrize(("relation", "axis", "sign"), [
    ("left of", 0, -1), ("right of", 0, 1), ("above", 1, -1), ("below", 1, 1),
])  # fmt: skip
def test_a_pair_is_placed_as_its_caption_says(relation: str, axis: int, sign: int) -> None:
    pairs = (scene for scene in scenes.any_scenes(5, ("pair",)) if relation in scene.caption)
    for scene in islice(pairs, 20):
        first, second = scene.things
        assert sign * (first.centre[axis] - second.centre[axis]) > 20
        words = scene.caption.split(relation)
        assert first.phrase in words[0]
        assert second.phrase in words[1]


def test_a_sprite_is_pasted_on_the_background() -> None:
    sprites = {name: Image.new("RGBA", (64, 64), (1, 2, 3, 255)) for name in scenes.EMOJI}
    scene = next(scenes.training_scenes(0, ("emoji",)))
    image = np.asarray(scenes.render(scene, sprites))
    assert (image[32, 32] == (1, 2, 3)).all()
    assert (image[0, 0] == scenes.COLOURS[scene.background]).all()


def test_no_novel_composition_is_trained() -> None:
    assert not any(scenes.is_novel(scene) for scene in islice(scenes.training_scenes(1), 5000))
    novel = {prompt["text"] for prompt in make_prompts(scenes)["novel"]}
    trained = {scene.caption for scene in islice(scenes.training_scenes(1), 20_000)}
    assert not novel & trained


def test_every_word_of_a_novel_prompt_is_trained() -> None:
    captions = (scene.caption for scene in islice(scenes.training_scenes(1), 5000))
    words = {word for caption in captions for word in caption.split()}
    for prompt in make_prompts(scenes)["novel"]:
        assert set(prompt["text"].split()) <= words


def test_captions_fit_the_tokens_and_the_vocabulary() -> None:
    words = set(scenes.vocabulary())
    for scene in islice(scenes.any_scenes(2), 5000):
        caption = scene.caption.split()
        assert len(caption) + 2 <= MAX_TOKENS
        assert set(caption) <= words


def test_vocabulary_has_no_word_twice() -> None:
    assert len(set(scenes.vocabulary())) == len(scenes.vocabulary())


def test_prompt_lists_are_disjoint_and_balanced() -> None:
    prompts = make_prompts(scenes)
    texts = [prompt["text"] for group in prompts.values() for prompt in group]
    assert len(set(texts)) == len(texts)
    for name, group in prompts.items():
        tags = [prompt["tag"] for prompt in group]
        assert {tags.count(tag) for tag in scenes.TAGS} == {scenes.PROMPTS[name][scenes.TAGS[0]]}


def test_every_tag_appears_in_the_stream() -> None:
    tags = {scene.tag for scene in islice(scenes.training_scenes(0), 200)}
    assert tags == set(scenes.TAGS)


def test_the_learning_rate_warms_up_and_ends_with_the_time() -> None:
    assert cosine_with_warmup(0.0, 0, 100) == pytest.approx(0.01)
    assert cosine_with_warmup(0.0, 100, 100) == pytest.approx(1.0)
    assert cosine_with_warmup(1.0, 5000, 100) == pytest.approx(0.01)


def test_a_resumed_clock_counts_the_time_spent_before() -> None:
    assert Clock(100.0, spent_before=50.0).fraction == pytest.approx(0.5, abs=0.01)
    assert Clock(100.0, spent_before=500.0).fraction == 1.0


def test_the_clip_tokenizer_is_the_same_each_time_and_keeps_words_whole() -> None:
    text = pytest.importorskip("demo_models.text")
    first, second = (text.new_clip_tokenizer(scenes.vocabulary(), MAX_TOKENS) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    for word in scenes.vocabulary():
        assert first.tokenize(word) == [f"{word.lower()}</w>"]


def test_merges_join_every_word_and_ties_are_broken_by_the_alphabet() -> None:
    text = pytest.importorskip("demo_models.text")
    merges = text.whole_word_merges([("b", "c</w>"), ("a", "b</w>"), ("a", "b", "d</w>")])
    assert merges == [("a", "b"), ("a", "b</w>"), ("ab", "d</w>"), ("b", "c</w>")]
