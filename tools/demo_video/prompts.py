"""The prompts that ship with the model: for calibration, held out from it, and novel."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from .scenes import Clip, any_clips, is_novel, training_clips

COUNTS = {
    "calibration": {"shape": 6, "pair": 5, "emoji": 5},
    "heldout": {"shape": 11, "pair": 10, "emoji": 11},
    "novel": {"shape": 6, "pair": 6, "emoji": 6},
}
SEED = 20_000

Prompt = dict[str, str]


def make_prompts() -> dict[str, list[Prompt]]:
    """Return the three lists of prompts, tags in turn; no caption stands in two lists.

    Calibration and held-out prompts are drawn as the training's captions are. The novel ones hold
    a composition that `is_novel` keeps from training, each of other objects. In the other lists no
    objects of a tag do the same twice.
    """
    taken: set[str] = set()
    result: dict[str, list[Prompt]] = {}
    for offset, (role, counts) in enumerate(COUNTS.items()):
        groups = [_draw(role, tag, count, SEED + offset, taken) for tag, count in counts.items()]
        result[role] = [prompt for row in zip_longest(*groups) for prompt in row if prompt]
    return result


def _draw(role: str, tag: str, count: int, seed: int, taken: set[str]) -> list[Prompt]:
    prompts: list[Prompt] = []
    subjects: set[frozenset[tuple[str, ...]]] = set()
    for clip in _clips(role, tag, seed):
        subject = frozenset(
            (actor.name,) if role == "novel" else (actor.name, actor.motion)
            for actor in clip.actors
        )
        if clip.caption in taken or subject in subjects:
            continue
        taken.add(clip.caption)
        subjects.add(subject)
        prompts.append({"text": clip.caption, "tag": tag})
        if len(prompts) == count:
            break
    return prompts


def _clips(role: str, tag: str, seed: int) -> Iterator[Clip]:
    if role == "novel":
        return (clip for clip in any_clips(seed, (tag,)) if is_novel(clip))
    return training_clips(seed, (tag,))
