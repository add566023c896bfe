"""A server: two pipelines, a budget for each request, requests that are cancelled on the way.

Serve on a port, or send so many requests to it over loopback and check every answer::

    python examples/server.py --port 8000
    curl -d '{"model": "guided", "prompt": "a large red circle", "seed": 3, "budget": 8}' localhost:8000
    python examples/server.py --requests 300

Needs only the standard library beside otcache. The two pipelines share their weights and have a scheduler
and tokenizers each, so they run at the same time; requests to one pipeline wait for one another, without
blocking the event loop. A client that hangs up cancels its request.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import copy
import io
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import otcache

Pixels = NDArray[np.int16]
STEPS = 8
BUDGETS = (2, 3, 4, 6, 8)
#: A policy in half a minute; leave it out for a good one.
SHORT = otcache.Recipe(
    ladder=(2, 6), cost_samples=1, anchor_trials=2, climb_trials=1, rounding_runs=0.0
)
PROMPTS = ("a large red circle", "a small blue square", "a green star")


@dataclass
class Model:
    """A pipeline that is enabled, and the arguments of its calls."""

    pipe: Any
    handle: otcache.Enabled
    call: dict[str, Any]
    steps: int = STEPS

    def sample(self, prompt: str, seed: int) -> str:
        """Make an image in this thread, as PNG in base64."""
        image = self.pipe(
            prompt=prompt,
            num_inference_steps=self.steps,
            generator=torch.Generator().manual_seed(seed),
            **self.call,
        ).images[0]
        file = io.BytesIO()
        image.save(file, "png")
        return base64.b64encode(file.getvalue()).decode("ascii")


class Server:
    """Answers requests, JSON objects with model, prompt, seed and budget, by JSON objects.

    Args:
        models: by name.
    """

    def __init__(self, models: dict[str, Model]) -> None:
        self.models = models

    async def generate(self, model: str, prompt: str, seed: int, budget: int) -> dict[str, Any]:
        """Make one image within a budget, and report what was computed for it."""
        chosen = self.models[model]
        async with chosen.handle.request(budget) as run:  # waits for its turn
            image = await asyncio.to_thread(chosen.sample, prompt, seed)
        report = run.report
        return {
            "image": image,
            "runs": report.runs,
            "computed": report.computed,
            "warnings": report.warnings,
        }

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection; the request is cancelled when the client hangs up."""
        try:
            job = asyncio.create_task(self.generate(**await _request(reader)))
            hangs_up = asyncio.create_task(reader.read())
            await asyncio.wait((job, hangs_up), return_when=asyncio.FIRST_COMPLETED)
            (hangs_up if job.done() else job).cancel()
            await asyncio.gather(job, hangs_up, return_exceptions=True)
            if not job.cancelled():
                writer.write(_response(200, job.result()))
                await writer.drain()
        except (otcache.OtcacheError, KeyError, TypeError, ValueError) as error:
            writer.write(_response(400, {"error": str(error)}))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # gone before it had asked, or while it was answered
        finally:
            writer.close()


async def _request(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    lengths = [line for line in head.splitlines() if line.startswith("content-length:")]
    body = await reader.readexactly(int(lengths[0].partition(":")[2]) if lengths else 0)
    request: dict[str, Any] = json.loads(body)
    return request


def _response(status: int, answer: dict[str, Any]) -> bytes:
    body = json.dumps(answer).encode()
    head = f"HTTP/1.1 {status} \r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\nConnection: close\r\n\r\n".encode() + body


# -- clients, to try it -------------------------------------------------------------------------


@dataclass
class Tally:
    """What came of many requests."""

    answered: int = 0
    cancelled: int = 0
    wrong: list[str] = field(default_factory=list)
    images: dict[tuple[Any, ...], Pixels] = field(default_factory=dict)
    megabytes: list[float] = field(default_factory=list)

    def check(self, asked: dict[str, Any], answer: dict[str, Any]) -> None:
        """Compare an answer with what was asked for, and with other answers to the same."""
        self.answered += 1
        branches = answer.get("computed", {})
        wanted: dict[str, Any] = {
            "image": answer.get("image"),
            "runs": 1,
            "computed": dict.fromkeys(branches, asked["budget"]),
            "warnings": [],
        }
        if answer != wanted or not branches or self._apart(asked, answer["image"]):
            self.wrong.append(f"{asked} got {answer}"[:400])

    def _apart(self, asked: dict[str, Any], image: str) -> bool:
        """Return whether an image is more than rounding away from the first answer to the same."""
        made = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))), dtype=np.int16)
        first = self.images.setdefault(tuple(asked.values()), made)
        return bool(np.abs(made - first).max() > 1)


async def client(port: int, asked: dict[str, Any], patience: float, tally: Tally) -> None:
    """Send one request, and hang up after some seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(asked).encode()
    writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    try:
        got = await asyncio.wait_for(reader.read(), patience)
        tally.check(asked, json.loads(got.partition(b"\r\n\r\n")[2]))
    except TimeoutError:
        tally.cancelled += 1
    finally:
        writer.close()


async def try_it(server: Server, requests: int, at_once: int = 12, impatient: float = 1.0) -> Tally:
    """Send many requests over loopback, mixed in model, prompt, seed and budget; some hang up.

    Args:
        server: what answers.
        requests: how many.
        at_once: clients that wait at a time.
        impatient: seconds within which one client in six hangs up.
    """
    tally, rng, free = Tally(), random.Random(0), asyncio.Semaphore(at_once)
    service = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    port = service.sockets[0].getsockname()[1]

    async def one(number: int) -> None:
        asked = {
            "model": rng.choice(sorted(server.models)),
            "prompt": rng.choice(PROMPTS),
            "seed": rng.randrange(3),
            "budget": rng.choice(BUDGETS),
        }
        async with free:
            patience = rng.random() * impatient if number % 6 == 5 else 600.0
            await client(port, asked, patience, tally)
        if number % 100 == 99:
            tally.megabytes.append(resident())

    async with service:
        await asyncio.gather(*map(one, range(requests)))
        for model in server.models.values():  # whatever was left behind has ended
            async with model.handle.request(1):
                pass
    return tally


def resident() -> float:
    """Return the MB of memory that this process has; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return pages * 4096 / 1e6


# -- the two pipelines --------------------------------------------------------------------------


def demo_models() -> dict[str, Model]:
    """Return the demo pipeline, guided, and one over the same weights that is not; calibrated in short."""
    from otcache_diffusers import demo

    pipe = demo.load()
    # Schedulers count steps, and tokenizers are set to the padding of each call: neither serves two threads.
    own = {n: copy.deepcopy(part) for n, part in pipe.components.items() if "tokenizer" in n}
    own["scheduler"] = type(pipe.scheduler).from_config(pipe.scheduler.config)
    twin = type(pipe)(**{**pipe.components, **own})
    twin.set_progress_bar_config(disable=True)
    plain = {k: v for k, v in demo.CALL.items() if k not in ("true_cfg_scale", "negative_prompt")}
    models = {}
    for name, one, call in (("guided", pipe, demo.CALL), ("plain", twin, plain)):
        calibration = otcache.calibrate(
            one, PROMPTS[:2], STEPS, recipe=SHORT, progress=False, **call
        )
        policy = otcache.plan(calibration)
        models[name] = Model(one, otcache.enable(one, policy), dict(call))
    return models


async def serve(server: Server, port: int) -> None:
    """Serve until interrupted."""
    service = await asyncio.start_server(server.answer, "127.0.0.1", port)
    async with service:
        await service.serve_forever()


def main() -> None:
    """Serve, or try it."""
    parser = argparse.ArgumentParser(description="A server with a budget for each request.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--requests", type=int, help="send so many over loopback, and end")
    given = parser.parse_args()
    server = Server(demo_models())
    if given.requests is None:
        asyncio.run(serve(server, given.port))
        return
    tally = asyncio.run(try_it(server, given.requests))
    print(f"{tally.answered} answered, {tally.cancelled} cancelled, {len(tally.wrong)} wrong")
    print("MB resident after each hundred:", ", ".join(f"{mb:.0f}" for mb in tally.megabytes))
    print("\n".join(tally.wrong[:5]))
    for name, model in server.models.items():
        model.handle.remove()
        assert otcache.enabled(model.pipe) is None, name


if __name__ == "__main__":
    main()
