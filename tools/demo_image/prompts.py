"""The prompts that ship with the model: for calibration, held out from it, and novel."""

from __future__ import annotations

from collections.abc import Iterator

from .scenes import TAGS, Scene, any_scenes, is_novel, training_scenes

PER_TAG = {"calibration": 4, "heldout": 8, "novel": 6}
SEED = 20_000

Prompt = dict[str, str]


def make_prompts() -> dict[str, list[Prompt]]:
    """Return the three lists of prompts, tags in turn; no caption stands in two lists.

    Calibration and held-out prompts are drawn as the training's captions are. The novel ones hold
    a composition that `is_novel` keeps from training, no two of a tag the same one.
    """
    taken: set[str] = set()
    result: dict[str, list[Prompt]] = {}
    for offset, (name, count) in enumerate(PER_TAG.items()):
        groups = [_draw(name, tag, count, SEED + offset, taken) for tag in TAGS]
        result[name] = [prompt for row in zip(*groups, strict=True) for prompt in row]
    return result


def _draw(name: str, tag: str, count: int, seed: int, taken: set[str]) -> list[Prompt]:
    prompts: list[Prompt] = []
    subjects: set[frozenset[str]] = set()
    for scene in _scenes(name, tag, seed):
        subject = frozenset(thing.name for thing in scene.things)
        if scene.caption in taken or subject in subjects:
            continue
        taken.add(scene.caption)
        subjects.add(subject)
        prompts.append({"text": scene.caption, "tag": tag})
        if len(prompts) == count:
            break
    return prompts


def _scenes(name: str, tag: str, seed: int) -> Iterator[Scene]:
    if name == "novel":
        return (scene for scene in any_scenes(seed, (tag,)) if is_novel(scene))
    return training_scenes(seed, (tag,))
