"""What was made, one line a sample: of what, how, and the digest of its file."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from otcache.generation.store import Store
from otcache_core.storage.files import bad_file

#: Files of finished generations: what was made, and what was set aside.
MADE, FAILED = "manifest.jsonl", "failed.jsonl"
#: Folder of the parts while it goes on, and the lines of each.
PARTS, PART = "manifest", 200
#: Lines that wait to be written where every write goes through a network.
WAITING = 20


class Made(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sample of a generation.

    Args:
        sample: its line among the prompts, from 0.
        seed: of its noise.
        prompt: SHA-256 of the line of the file of prompts.
        budget: B that was asked for.
        executed: steps that were computed, of the branch that computed most.
        file: its name in the folder.
        sha256: of the file.
        seconds: of the pipeline call, over the samples in it.
        expected: errors that the policy expects at this budget, by metric.
        reason: why it was set aside; empty if it was made.
    """

    sample: int
    seed: int
    prompt: str
    budget: int
    executed: int = 0
    file: str = ""
    sha256: str = ""
    seconds: float = 0.0
    expected: dict[str, float] = {}
    reason: str = ""


@dataclass
class Manifest:
    """The manifest of a generation, written as it grows and joined at its end; several threads may add.

    Args:
        store: where it is.
    """

    store: Store
    _known: dict[tuple[int, int], Made] = field(default_factory=dict)
    _part: list[Made] = field(default_factory=list)
    _waiting: int = 0
    _number: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> None:
        """Read what an earlier run left.

        Raises:
            FileError: if a line is not one of a manifest.
        """
        parts = self.store.names(PARTS)
        for name in (MADE, FAILED, *parts):
            for line in _lines(self.store, name):
                self._known[line.sample, line.seed] = line
        numbers = [int(name.rsplit("/", 1)[-1].partition(".")[0]) for name in parts]
        self._number = max(numbers, default=-1) + 1

    def begin_again(self) -> None:
        """Forget everything."""
        for name in (MADE, FAILED, *self.store.names(PARTS)):
            if self.store.read(name) is not None:
                self.store.remove(name)
        self._known.clear()

    def forget_failures(self) -> None:
        """Forget what was set aside, so that it is tried again."""
        self._known = {key: line for key, line in self._known.items() if not line.reason}

    def knows(self, sample: int, seed: int) -> bool:
        """Return whether a sample was made or set aside."""
        return (sample, seed) in self._known

    @property
    def lines(self) -> list[Made]:
        """All lines, in the order of samples and seeds."""
        return [self._known[key] for key in sorted(self._known)]

    def add(self, lines: Iterable[Made]) -> None:
        """Add lines, and write them: at once into a folder, some at a time through a network."""
        with self._lock:
            for line in lines:
                self._known[line.sample, line.seed] = line
                self._part.append(line)
                self._waiting += 1
            if self._waiting >= (1 if self.store.is_local else WAITING):
                self._write()

    def _write(self) -> None:
        name = f"{PARTS}/{self._number:06}.jsonl"
        self.store.write(name, _text(self._part))
        self._waiting = 0
        if len(self._part) >= PART:
            self._part, self._number = [], self._number + 1

    def keep(self) -> None:
        """Write what waits."""
        with self._lock:
            if self._waiting:
                self._write()

    def finish(self) -> None:
        """Join the parts."""
        self.keep()
        lines = self.lines
        self.store.write(MADE, _text([line for line in lines if not line.reason]))
        failed = [line for line in lines if line.reason]
        if failed or self.store.read(FAILED) is not None:
            self.store.write(FAILED, _text(failed))
        for name in self.store.names(PARTS):
            self.store.remove(name)
        self.store.remove_folder(PARTS)


def _text(lines: Iterable[Made]) -> bytes:
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def _lines(store: Store, name: str) -> list[Made]:
    found = []
    for number, text in enumerate((store.read(name) or b"").splitlines(), 1):
        try:
            found.append(msgspec.json.decode(text, type=Made))
        except msgspec.MsgspecError as error:
            raise bad_file(
                store.name(name), f"line {number} is no line of a manifest: {error}"
            ) from error
    return found
