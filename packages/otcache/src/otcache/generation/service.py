"""A service: a budget or a quality for each request, those of one budget in one pipeline call.

What speaks HTTP stands before it: an ASGI application (examples/serve) or Ray Serve (otcache-ray). Both hand
over the body of a request and send back a :class:`Reply`.
"""

from __future__ import annotations

import asyncio
import json
import mimetypes
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from otcache.generation.job import Job
from otcache.generation.worker import File, Workshop
from otcache.running import load_policy, requested_budget
from otcache_core import OtcacheError
from otcache_core.errors import expected, shortened
from otcache_core.plugins import Registry, installed
from otcache_core.plugins.info import ANY, reason_of
from otcache_core.policy import Policy
from otcache_core.samples import seed_of

OK, BAD, LATE, LARGE, BUSY, FAILED, CLOSING = 200, 400, 408, 413, 429, 500, 503
#: Of a client that has gone, as servers log it; nobody gets it.
GONE = 499


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request, as the JSON object of its body.

    Args:
        prompt: what to make.
        budget: B; or a quality.
        quality: a name that :meth:`otcache.Policy.for_quality` takes.
        seed: of the noise.
    """

    prompt: str
    budget: int | None = None
    quality: str | None = None
    seed: int = 0


class Reply(NamedTuple):
    """What is sent back.

    Attributes:
        status: of HTTP.
        headers: in lower case.
        body: the file, or a JSON object with ``error``.
    """

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Limits:
    """What a service takes.

    Args:
        body: bytes of a request.
        prompt: characters.
        seconds: in which a body has to come.
        waiting: requests that wait for their turn; further ones are refused.
        batch: requests in one pipeline call.
        call: seconds that one pipeline call may take; after a longer one the service takes no requests.
    """

    body: int = 65_536
    prompt: int = 4_000
    seconds: float = 10.0
    waiting: int = 256
    batch: int = 4
    call: float = 600.0


class Served(NamedTuple):
    """What became of a request, for metrics.

    Attributes:
        status: of HTTP.
        budget: B; 0 of a request that has none.
        executed: steps that were computed.
        seconds: from its body to its reply.
        batch: requests in its pipeline call.
        notices: that the call gave.
    """

    status: int
    budget: int = 0
    executed: int = 0
    seconds: float = 0.0
    batch: int = 0
    notices: int = 0


class RefusedError(Exception):
    """A request that gets no sample.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(eq=False)
class _Waiting:
    """A request that waits for its turn."""

    ask: Ask
    policy: Policy | None
    budget: int
    future: asyncio.Future[tuple[File, int]] = field(repr=False)


class Service:
    """Answers requests by one pipeline, opened here, in one event loop.

    One pipeline call is made at a time, in a thread: the oldest request that waits, and with it the next ones
    of the same budget. A sample does not depend on which others share its call, but for rounding.

    Args:
        pipeline: as the command line names it.
        policy: path of its policy; None: without calibration, and no request may name a quality.
        num_steps: N; None: the policy's, or the pipeline's own.
        call: further arguments of every call.
        limits: what is taken.
        observe: called with what became of each request.
        registry: where plugins come from; None: the installed ones.

    Raises:
        OtcacheError: if the pipeline cannot be opened, or the policy is of another one.
    """

    def __init__(
        self,
        pipeline: str,
        policy: str | Path | None = None,
        *,
        num_steps: int | None = None,
        call: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        observe: Callable[[Served], None] | None = None,
        registry: Registry | None = None,
    ) -> None:
        job = Job(pipeline, "", 1, num_steps=num_steps, call=dict(call or {}))
        self._workshop = Workshop(job, None, registry or installed())
        self._limits = limits or Limits()
        self._observe: Callable[[Served], None] = observe or (lambda served: None)
        self._policy: Policy | None = None
        self._most = 0
        if policy is not None:
            self.reload(policy)
        else:
            with suppress(OtcacheError):  # a policy may come later
                self._most = self._workshop.num_steps
        self._waiting: deque[_Waiting] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="pipeline")
        self._closing, self._stuck = False, False
        self._work: asyncio.Task[None] | None = None

    def reload(self, policy: str | Path) -> None:
        """Use another policy for the requests from now on; those that wait keep theirs.

        Raises:
            FileError: if it cannot be read. As with every error here, the policy stays what it was.
            MismatchError: if it is of another model.
        """
        loaded = load_policy(policy)
        self._workshop.check(loaded)
        self._policy, self._most = loaded, loaded.num_steps

    def health(self) -> dict[str, Any]:
        """Return whether requests are taken, and how many wait."""
        status = "stuck" if self._stuck else "draining" if self._closing else "ok"
        return {"status": status, "waiting": len(self._waiting)}

    @property
    def stuck(self) -> bool:
        """Whether a pipeline call has taken longer than the limit: no further one can be made."""
        return self._stuck

    async def drain(self) -> None:
        """Take no further requests, and return once those that were taken are answered."""
        self._closing = True
        while self._work is not None and not self._work.done():
            await asyncio.wait([self._work])

    async def receive(self, chunks: AsyncIterator[bytes]) -> Reply:
        """Read the body of a request, and answer it.

        Args:
            chunks: of the body, as they come.
        """
        body = b""
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for chunk in chunks:
                    body += chunk
                    if len(body) > self._limits.body:
                        most = self._limits.body
                        raise RefusedError(LARGE, f"a body has at most {most} bytes")
        except TimeoutError:
            return self._refusal(LATE, "the body took too long")
        except RefusedError as refused:
            return self._refusal(refused.status, str(refused))
        return await self.reply(body)

    async def reply(self, body: bytes) -> Reply:
        """Answer a request, given its body."""
        began, budget = time.perf_counter(), 0
        try:
            ask = self._ask(body)
            budget = self._budget(ask)
            file, batch = await self._file(ask, budget)
        except RefusedError as refused:
            return self._refusal(refused.status, str(refused), budget)
        except asyncio.CancelledError:
            self._observe(Served(GONE, budget))
            raise
        seconds = time.perf_counter() - began
        self._observe(Served(OK, budget, file.executed, seconds, batch, len(file.notices)))
        headers = {
            "content-type": mimetypes.types_map.get(file.suffix, "application/octet-stream"),
            "x-otcache-budget": str(budget),
            "x-otcache-executed": str(file.executed),
            "x-otcache-expected": json.dumps(file.expected),
            "x-otcache-seconds": f"{file.seconds:.4f}",
        }
        return Reply(OK, headers, file.data)

    def _refusal(self, status: int, reason: str, budget: int = 0) -> Reply:
        self._observe(Served(status, budget))
        headers = {"content-type": "application/json"}
        if status in (BUSY, CLOSING):
            headers["retry-after"] = "1"
        return Reply(status, headers, json.dumps({"error": shortened(reason)}).encode())

    def _ask(self, body: bytes) -> Ask:
        try:
            ask = msgspec.json.decode(body, type=Ask)
            seed_of(ask.seed)
        except (msgspec.MsgspecError, UnicodeError, OtcacheError, RecursionError) as error:
            raise RefusedError(BAD, str(error)) from None
        if not 1 <= len(ask.prompt.strip()) <= len(ask.prompt) <= self._limits.prompt:
            reason = expected(
                "prompt", f"{len(ask.prompt)} characters", f"1 to {self._limits.prompt}"
            )
            raise RefusedError(BAD, reason)
        return ask

    def _budget(self, ask: Ask) -> int:
        """Return B of a request; of a quality, by the policy."""
        policy = self._policy
        if not self._most:
            raise RefusedError(
                CLOSING, "this service has neither a policy nor a number of steps yet"
            )
        try:
            budget = requested_budget(policy, ask.budget, ask.quality)
        except OtcacheError as error:
            raise RefusedError(BAD, str(error)) from None
        if not 1 <= budget <= self._most:
            raise RefusedError(BAD, expected("budget", budget, f"in 1..{self._most}"))
        return budget

    async def _file(self, ask: Ask, budget: int) -> tuple[File, int]:
        if self._closing or self._stuck:
            reason = "a pipeline call hangs" if self._stuck else "this service is about to stop"
            raise RefusedError(CLOSING, reason)
        if len(self._waiting) >= self._limits.waiting:
            raise RefusedError(BUSY, "too many requests wait")
        one = _Waiting(ask, self._policy, budget, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._answer_all())
        try:
            return await one.future
        finally:  # also of a client that has gone
            if one in self._waiting:
                self._waiting.remove(one)

    async def _answer_all(self) -> None:
        """Answer what waits, a pipeline call at a time."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, most = self._next(), self._limits.call
            call = loop.run_in_executor(self._pool, self._make, batch)
            try:
                made = await asyncio.wait_for(asyncio.shield(call), most)
            except TimeoutError:
                self._stuck = True
                made = [f"it took longer than {most:g} s"] * len(batch)
            for one, found in zip(batch, made, strict=True):
                if one.future.done():
                    continue
                if isinstance(found, File):
                    one.future.set_result((found, len(batch)))
                else:
                    one.future.set_exception(RefusedError(FAILED, found))
            if self._stuck:
                for one in self._waiting:
                    if not one.future.done():
                        one.future.set_exception(RefusedError(CLOSING, "a pipeline call hangs"))
                return

    def _next(self) -> list[_Waiting]:
        first = self._waiting[0]
        alike = [
            one
            for one in self._waiting
            if one.budget == first.budget and one.policy is first.policy
        ]
        batch = alike[: self._limits.batch]
        for one in batch:
            self._waiting.remove(one)
        return batch

    def _make(self, batch: Sequence[_Waiting]) -> list[File | str]:
        """Return the files, or why there is none; where a call fails each is tried alone."""
        first = batch[0]
        samples, seeds = [one.ask.prompt for one in batch], [one.ask.seed for one in batch]
        try:
            return list(self._workshop.make(samples, seeds, first.policy, first.budget))
        except ANY as error:
            if len(batch) == 1:
                return [reason_of(error)]
            return [self._make([one])[0] for one in batch]
