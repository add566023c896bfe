"""A plain ASGI server: a budget or a quality for each request, with metrics, limits, drain and reload.

Serve a pipeline, ask it, look at its metrics, and use the policy file as it is now from here on::

    python examples/serve/app.py demo --policy policy.otcache --port 8000
    curl -d '{"prompt": "a large red circle", "budget": 8, "seed": 3}' localhost:8000/generate -o circle.png
    curl localhost:8000/metrics
    curl -X POST localhost:8000/reload

Needs uvicorn and prometheus_client beside otcache. Any other ASGI server runs ``App(Service(...))`` as well.
``/reload`` and ``/metrics`` are for operators: let what stands before the server refuse them to others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from otcache.generation.service import Reply, Served, Service
from otcache_core import OtcacheError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
JSON = {"content-type": "application/json"}


class Metrics:
    """What a service did, for Prometheus; ``observe`` is what the service calls."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._made(
            Counter, "requests", "Requests by status and budget.", "status", "budget"
        )
        self._planned = self._made(Counter, "planned_steps", "Steps that budgets asked for.")
        self._executed = self._made(Counter, "executed_steps", "Steps that were computed.")
        self._notices = self._made(Counter, "notices", "Notices of runs.")
        self._seconds = self._made(
            Histogram, "seconds", "From a request's body to its reply.", "budget"
        )
        self._waiting = self._made(Gauge, "waiting", "Requests that wait.")

    def _made(self, kind: Any, name: str, text: str, *labels: str) -> Any:
        return kind(f"otcache_{name}", text, labels, registry=self._registry)

    def observe(self, served: Served) -> None:
        """Count a request."""
        self._requests.labels(str(served.status), str(served.budget)).inc()
        if served.executed:
            self._planned.inc(served.budget)
            self._executed.inc(served.executed)
            self._notices.inc(served.notices)
            self._seconds.labels(str(served.budget)).observe(served.seconds)

    def reply(self, waiting: int) -> Reply:
        """Return all of them in Prometheus's text format."""
        self._waiting.set(waiting)
        return Reply(200, {"content-type": CONTENT_TYPE_LATEST}, generate_latest(self._registry))


class App:
    """The ASGI application.

    Args:
        service: answers.
        metrics: that the service reports to.
        policy: file that ``/reload`` reads again; None if there is none.
    """

    def __init__(self, service: Service, metrics: Metrics, policy: Path | None = None) -> None:
        self._service, self._metrics, self._policy = service, metrics, policy

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            reply = await self._reply(scope, receive)
            if reply is not None:
                await _send(send, reply)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start, and stop once all that was taken is answered."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._service.drain()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _reply(self, scope: Message, receive: Receive) -> Reply | None:
        health = self._service.health()
        place = (scope["method"], scope["path"])
        if place == ("POST", "/generate"):
            return await self._unless_gone(receive)
        if place == ("GET", "/health"):
            status = 200 if health["status"] == "ok" else 503
            return Reply(status, JSON, json.dumps(health).encode())
        if place == ("GET", "/metrics"):
            return self._metrics.reply(health["waiting"])
        if place == ("POST", "/reload"):
            return await asyncio.to_thread(self._reload)
        return _error(404, "there is POST /generate, GET /health, GET /metrics and POST /reload")

    async def _unless_gone(self, receive: Receive) -> Reply | None:
        """Answer a request; nobody waits for it any more once the client has gone."""
        whole = asyncio.Event()
        work = asyncio.create_task(self._service.receive(_chunks(receive, whole)))
        gone = asyncio.create_task(_gone(receive, whole))
        try:
            await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        except ConnectionError:
            return None
        finally:
            work.cancel()
            gone.cancel()

    def _reload(self) -> Reply:
        if self._policy is None:
            return _error(400, "this service has no policy")
        try:
            self._service.reload(self._policy)
        except OtcacheError as error:
            return _error(500, f"the policy stays what it was: {error}")
        return Reply(200, JSON, json.dumps({"policy": self._policy.name}).encode())


async def _chunks(receive: Receive, whole: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield the body, and set an event at its end."""
    while not whole.is_set():
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        yield message.get("body", b"")
        if not message.get("more_body", False):
            whole.set()


async def _gone(receive: Receive, whole: asyncio.Event) -> None:
    """Return once a client has gone that had sent its whole body."""
    await whole.wait()
    while (await receive())["type"] != "http.disconnect":
        pass


def _error(status: int, reason: str) -> Reply:
    return Reply(status, JSON, json.dumps({"error": reason}).encode())


async def _send(send: Send, reply: Reply) -> None:
    headers = [*reply.headers.items(), ("content-length", str(len(reply.body)))]
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": encoded})
    await send({"type": "http.response.body", "body": reply.body})


def make_app(
    pipeline: str, policy: Path | None = None, num_steps: int | None = None, **more: Any
) -> App:
    """Return an application for a pipeline, by its name; further arguments go to the service."""
    metrics = Metrics()
    service = Service(pipeline, policy, num_steps=num_steps, observe=metrics.observe, **more)
    return App(service, metrics, policy)


def main() -> None:
    """Serve until a signal, and answer what was taken before."""
    import uvicorn

    parser = argparse.ArgumentParser(description="Serve a pipeline with a budget for each request.")
    parser.add_argument("pipeline", help="demo, module:function, or a saved folder")
    parser.add_argument("--policy", type=Path)
    parser.add_argument(
        "--steps", type=int, help="N; by default the policy's, or the pipeline's own"
    )
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    app = make_app(given.pipeline, given.policy, given.steps)
    uvicorn.run(app, port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
