"""What is generated: settings that a folder keeps, and the samples of a file of prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from otcache.generation.manifest import Manifest
from otcache.generation.store import Store
from otcache.pipelines import read_lines
from otcache_core import FileError
from otcache_core.storage.files import bad_file

#: Lines that a file of prompts may hold.
MOST = 1_000_000
#: File of the settings, and folder of what is made.
JOB, FILES = "job.json", "samples"


class Job(msgspec.Struct, frozen=True):
    """Settings of a generation; all that its samples depend on, but for versions and the machine.

    Args:
        pipeline: as the command line names it.
        prompts: SHA-256 of the file of prompts.
        budget: B.
        seeds: each prompt is made with each of them; none: with the number of its line, from 0.
        num_steps: ``num_inference_steps``; None for the policy's or the pipeline's own.
        policy: SHA-256 of the policy's file; empty: without calibration.
        call: further arguments of the pipeline call.
        batch_size: samples in one call; which these are depends on their order alone.
        frames_per_second: of videos; 0 for the demo's, or 16.
        probe: name of a probe plugin; empty for the first that supports the pipeline.
        executor: of an executor plugin.
    """

    pipeline: str
    prompts: str
    budget: int
    seeds: tuple[int, ...] = ()
    num_steps: int | None = None
    policy: str = ""
    call: dict[str, Any] = {}
    batch_size: int = 1
    frames_per_second: float = 0.0
    probe: str = ""
    executor: str = ""

    def begin(self, store: Store, *, overwrite: bool) -> Manifest:
        """Begin in an empty folder, or go on in one of the same settings.

        Returns:
            The manifest, with what was made earlier.

        Raises:
            FileError: if the folder holds a generation of other settings, unless it may be overwritten.
        """
        manifest = Manifest(store)
        kept, name = store.read(JOB), store.name(JOB)
        if kept is not None and overwrite:
            manifest.begin_again()
        elif kept is not None:
            try:
                same = msgspec.json.decode(kept, type=Job) == self
            except msgspec.MsgspecError as error:
                raise bad_file(name, f"is no generation's: {error}") from error
            if not same:
                raise FileError(
                    f"{name}: is of other settings, another policy or other prompts: choose another "
                    "folder, or give --force to make its samples again."
                )
        store.write(JOB, msgspec.json.encode(self))
        manifest.read()
        return manifest


class Piece(msgspec.Struct, frozen=True):
    """One sample that is to be made.

    Args:
        sample: its index among the prompts, from 0.
        seed: of its noise.
        line: number of its line in the file, for messages.
        text: of the line.
    """

    sample: int
    seed: int
    line: int
    text: str


@dataclass(frozen=True)
class Prompts:
    """The samples of a file.

    Args:
        path: of the file: a prompt a line, or JSON lines with call arguments.
        lines: their numbers and texts.
        sha256: of all.
    """

    path: Path
    lines: Sequence[tuple[int, str]] = field(repr=False)
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Prompts:
        """Read a file.

        Raises:
            FileError: if it cannot be read, is not UTF-8, or holds no or too many prompts.
        """
        lines = read_lines(path, MOST)
        return cls(path, lines, digest("\n".join(text for _, text in lines).encode()))

    def pairs(self, seeds: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield the index and the seed of everything that is to be made."""
        for index in range(len(self.lines)):
            for seed in seeds or (index,):
                yield index, seed

    def pieces(self, pairs: Iterable[tuple[int, int]]) -> list[Piece]:
        """Return what a worker must know of some of them."""
        return [Piece(index, seed, *self.lines[index]) for index, seed in pairs]


def digest(data: bytes) -> str:
    """Return SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
