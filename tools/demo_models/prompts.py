"""The prompts that ship with a demo model: for calibration, held out from it, and novel."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from types import ModuleType

SEED = 20_000

Prompt = dict[str, str]


def make_prompts(scenes: ModuleType) -> dict[str, list[Prompt]]:
    """Return the three lists of prompts, tags in turn; no caption is in two lists.

    Calibration and held-out prompts are drawn as the training's captions are. The novel ones hold
    a composition that `is_novel` keeps from training. No two prompts of a list and tag have one
    subject.

    Args:
        scenes: `demo_models.scenes` or `demo_models.videos`; its `PROMPTS` are the counts by list and tag.
    """
    taken: set[str] = set()
    result: dict[str, list[Prompt]] = {}
    for offset, (role, counts) in enumerate(scenes.PROMPTS.items()):
        groups = [
            _draw(scenes, role == "novel", tag, count, SEED + offset, taken)
            for tag, count in counts.items()
        ]
        result[role] = [prompt for row in zip_longest(*groups) for prompt in row if prompt]
    return result


def _draw(
    scenes: ModuleType, novel: bool, tag: str, count: int, seed: int, taken: set[str]
) -> list[Prompt]:
    prompts: list[Prompt] = []
    subjects: set[object] = set()
    for scene in _candidates(scenes, novel, tag, seed):
        subject = scene.subject(novel)
        if scene.caption in taken or subject in subjects:
            continue
        taken.add(scene.caption)
        subjects.add(subject)
        prompts.append({"text": scene.caption, "tag": tag})
        if len(prompts) == count:
            break
    return prompts


def _candidates(scenes: ModuleType, novel: bool, tag: str, seed: int) -> Iterator[object]:
    if novel:
        return (scene for scene in scenes.any_scenes(seed, (tag,)) if scenes.is_novel(scene))
    return scenes.training_scenes(seed, (tag,))
