"""A callable for Ray Data's ``map_batches``: prompts in, images or videos out, by a policy and a budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache.generation.job import FILES, Job, digest
from otcache.generation.runner import ALIKE
from otcache.generation.store import Store
from otcache.generation.worker import File, Workshop
from otcache.running import load_policy, requested_budget
from otcache_core import OtcacheError
from otcache_core.errors import expected, shortened
from otcache_core.plugins import installed
from otcache_core.plugins.info import ANY, reason_of
from otcache_core.policy import Policy
from otcache_core.samples import Sample, seed_of

Batch = Mapping[str, NDArray[Any]]
#: Columns of a batch that are read, where it has them.
PROMPT, SEED = "prompt", "seed"


class Row(NamedTuple):
    """What a row asks for."""

    sample: Sample
    seed: int


class Generator:
    """Makes a batch of prompts in one pipeline call, on an actor that opened the pipeline by its name.

    A row keeps its columns and gets ``seed``, ``budget``, ``executed`` (steps that were computed),
    ``seconds`` (of the call, over its rows), ``sha256``, ``reason`` and, without ``out``, ``file`` (bytes of
    a PNG or a video), or with it ``path`` (name of the file in ``out``). A row that cannot be made has its
    ``reason`` and no file; of a batch that fails each row is tried alone first. The same rows give the same
    files, so a batch that Ray runs again, after a worker has died, overwrites its own.

    Args:
        pipeline: as the command line names it: ``module:function``, a saved folder or ``demo``.
        policy: path of it, or the policy; None: without calibration.
        budget: B; or a quality.
        quality: a name that :meth:`otcache.Policy.for_quality` takes; needs a policy.
        num_steps: N; None: the policy's, or the pipeline's own.
        call: further arguments of every call.
        arguments: columns that are call arguments of their row, such as ``negative_prompt``.
        out: folder that all machines see, or a URL for fsspec; empty: the bytes stay in the rows.
        frames_per_second: of videos; 0 for the demo's, or 16.

    Raises:
        OtcacheError: if the pipeline cannot be opened, or there is no budget.

    Examples:
        >>> rows = ray.data.read_text("prompts.txt").rename_columns({"text": "prompt"})  # doctest: +SKIP
        >>> made = rows.map_batches(  # doctest: +SKIP
        ...     otcache_ray.Generator,
        ...     fn_constructor_kwargs={"pipeline": "my_project:make_pipeline", "budget": 10},
        ...     batch_size=4, concurrency=8, num_gpus=1,
        ... )
    """

    def __init__(
        self,
        pipeline: str,
        policy: Policy | str | Path | None = None,
        *,
        budget: int | None = None,
        quality: str | None = None,
        num_steps: int | None = None,
        call: Mapping[str, Any] | None = None,
        arguments: Sequence[str] = (),
        out: str = "",
        frames_per_second: float = 0.0,
    ) -> None:
        known = policy if policy is None or isinstance(policy, Policy) else load_policy(policy)
        self._budget = requested_budget(known, budget, quality)
        job = Job(
            pipeline,
            "",
            self._budget,
            num_steps=num_steps,
            call=dict(call or {}),
            frames_per_second=frames_per_second,
        )
        policy_digest = "" if known is None else digest(msgspec.json.encode(known))
        self._identity = [msgspec.to_builtins(job), policy_digest]
        self._workshop = Workshop(job, known, installed())
        self._store = Store(out) if out else None
        self._arguments = tuple(arguments)
        self._early: list[str] | None = []

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Make the rows of a batch.

        Args:
            batch: columns; ``prompt`` (texts) is needed, ``seed`` (integers) is the prompt's own digest where
                there is none.

        Raises:
            OtcacheError: if there are no prompts, or the first rows of this worker fail alike.
            StoreError: if files cannot be written.
        """
        if PROMPT not in batch:
            raise OtcacheError(
                f"a batch must have a column {PROMPT!r}, got {', '.join(batch)}: rename one to it."
            )
        rows = [self._row(batch, number) for number in range(len(batch[PROMPT]))]
        good = [row for row in rows if isinstance(row, Row)]
        found = self._made(good) if good else []
        self._check(found)
        files = iter(found)
        made = [next(files) if isinstance(row, Row) else row for row in rows]
        seeds = [row.seed if isinstance(row, Row) else 0 for row in rows]
        return {**batch, SEED: np.array(seeds, dtype=np.uint64), **self._columns(rows, made)}

    def _row(self, batch: Batch, number: int) -> Row | str:
        """Return what a row asks for, or why it cannot be made."""
        prompt = batch[PROMPT][number]
        if not isinstance(prompt, str) or not prompt.strip():
            return shortened(expected("prompt", prompt, "a text"))
        values = {name: _plain(batch[name][number]) for name in self._arguments}
        try:
            known = SEED in batch
            seed = seed_of(_plain(batch[SEED][number])) if known else _seed_of(prompt)
        except OtcacheError as error:
            return shortened(str(error))
        return Row({PROMPT: prompt, **values} if values else prompt, seed)

    def _made(self, rows: Sequence[Row]) -> list[File | str]:
        """Return the files, or why there is none."""
        try:
            return list(self._workshop.make([r.sample for r in rows], [r.seed for r in rows]))
        except ANY as error:
            if len(rows) == 1:
                return [shortened(reason_of(error))]
            return [self._made([row])[0] for row in rows]

    def _check(self, made: Sequence[File | str]) -> None:
        """Raise where the first rows fail alike: no prompt is to blame for that."""
        if self._early is None or any(isinstance(one, File) for one in made):
            self._early = None
            return
        self._early += [str(one) for one in made]
        if len(self._early) >= ALIKE and len(set(self._early)) == 1:
            raise OtcacheError(f"the first {len(self._early)} rows fail alike: {self._early[0]}")

    def _columns(
        self, rows: Sequence[Row | str], made: Sequence[File | str]
    ) -> dict[str, list[Any]]:
        files = [one if isinstance(one, File) else None for one in made]
        columns: dict[str, list[Any]] = {
            "budget": [self._budget for _ in made],
            "executed": [one.executed if one else 0 for one in files],
            "seconds": [one.seconds if one else 0.0 for one in files],
            "sha256": [digest(one.data) if one else "" for one in files],
            "reason": [one if isinstance(one, str) else "" for one in made],
        }
        if self._store is None:
            return {**columns, "file": [one.data if one else b"" for one in files]}
        return {**columns, "path": [self._kept(*pair) for pair in zip(rows, files, strict=True)]}

    def _kept(self, row: Row | str, file: File | None) -> str:
        if file is None or self._store is None or isinstance(row, str):
            return ""
        what = json.dumps([self._identity, row.sample], sort_keys=True, default=repr)
        name = f"{FILES}/{digest(what.encode())[:16]}-{row.seed}{file.suffix}"
        self._store.write(name, file.data)
        return name


def _plain(value: Any) -> Any:
    """Return a number of numpy's as one of Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _seed_of(prompt: str) -> int:
    """Return a seed that is another one for each prompt, and the same on every machine."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")
