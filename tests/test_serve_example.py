"""The service and its ASGI example: each gets its own budget; hostile requests cost their own reply only."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from otcache.generation.service import GONE, Limits, Served, Service

TESTS = Path(__file__).parent
STEPS = 6
LIMITS = Limits(body=2_000, prompt=60, seconds=0.2, waiting=40)
#: Of each hostile request what is wrong with it, and the status of its reply.
HOSTILE = {
    b'{"prompt": "red", "budget": "ten"}': 400,
    b'{"prompt": "red", "budget": 0}': 400,
    b'{"prompt": "red", "budget": 7}': 400,
    b'{"prompt": "red", "budget": true}': 400,
    b'{"prompt": "red", "budget": 2.5}': 400,
    b'{"prompt": "red"}': 400,
    b'{"prompt": "red", "budget": 3, "quality": "high"}': 400,
    b'{"prompt": "red", "quality": "high"}': 400,
    b'{"prompt": "red", "budget": 3, "seed": -1}': 400,
    b'{"prompt": "red", "budget": 3, "steps": 1000}': 400,
    b'{"prompt": "", "budget": 3}': 400,
    b'{"prompt": "' + b"r" * 61 + b'", "budget": 3}': 400,
    b'{"prompt": "' + b"r" * 3_000 + b'", "budget": 3}': 413,
    b'{"prompt": "\xff", "budget": 3}': 400,
    b"[" * 1_900: 400,
    b"": 400,
    b'{"prompt": "poison", "budget": 3}': 500,
}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(TESTS)  # where colours.py is
    path = TESTS.parent / "examples" / "serve" / "app.py"
    spec = importlib.util.spec_from_file_location("serve_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


class Client:
    """Speaks ASGI to an application, as a server does."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def send(
        self, method: str, path: str, *chunks: bytes, gone: bool = False, whole: bool = True
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request in chunks; the client then waits, has gone, or never sends the rest."""
        messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
        messages.append({"type": "http.request", "body": b"", "more_body": False})
        if not whole:
            messages.pop()
        said: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            if gone:
                return {"type": "http.disconnect"}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            said.append(message)

        scope = {"type": "http", "method": method, "path": path}
        await self._app(scope, receive, send)
        if not said:
            return 0, {}, b""
        headers = {name.decode(): value.decode() for name, value in said[0]["headers"]}
        return said[0]["status"], headers, said[1]["body"]

    async def ask(self, **fields: Any) -> tuple[int, dict[str, str], bytes]:
        return await self.send("POST", "/generate", json.dumps(fields).encode())


def _many(client: Client, count: int) -> list[Awaitable[tuple[int, dict[str, str], bytes]]]:
    return [client.ask(prompt="red", budget=2 + n % 4, seed=n) for n in range(count)]


def test_everyone_gets_their_own_budget_beside_hostile_requests(example: Any) -> None:
    client = Client(example.make_app("colours:make", num_steps=STEPS, limits=LIMITS))

    async def talk() -> tuple[list[Any], list[Any], Any, Any, list[Any], bytes]:
        friendly, hostile, cut, slow = await asyncio.gather(
            asyncio.gather(*_many(client, 32)),
            asyncio.gather(*(client.send("POST", "/generate", body) for body in HOSTILE)),
            client.send("POST", "/generate", b'{"prompt": "red", "budget": 3}', gone=True),
            client.send("POST", "/generate", b'{"prom', whole=False),
        )
        alone = [await one for one in _many(client, 4)]
        metrics = await client.send("GET", "/metrics")
        return friendly, hostile, cut, slow, alone, metrics[2]

    friendly, hostile, cut, slow, alone, metrics = asyncio.run(talk())
    for n, (status, headers, _) in enumerate(friendly):
        assert (status, headers["content-type"]) == (200, "image/png")
        assert headers["x-otcache-budget"] == headers["x-otcache-executed"] == str(2 + n % 4)
    assert [body for _, _, body in friendly[:4]] == [body for _, _, body in alone]
    assert [status for status, _, _ in hostile] == list(HOSTILE.values())
    assert all("error" in json.loads(body) for _, _, body in hostile)
    assert (cut[0], slow[0]) == (0, 408)
    counted = dict(line.rsplit(" ", 1) for line in metrics.decode().splitlines() if line[0] != "#")
    assert counted['otcache_requests_total{budget="2",status="200"}'] == "9.0"
    assert counted["otcache_planned_steps_total"] == counted["otcache_executed_steps_total"]
    assert counted["otcache_waiting"] == "0.0"


def _service(seen: list[Served], **limits: Any) -> Service:
    return Service("colours:make", num_steps=STEPS, limits=Limits(**limits), observe=seen.append)


def _body(**fields: Any) -> bytes:
    return json.dumps({"prompt": "red", "budget": 3, **fields}).encode()


def test_requests_of_one_budget_share_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TESTS)
    seen: list[Served] = []
    service = _service(seen, batch=3)

    async def talk() -> None:
        budgets = [2, 3, 3, 2, 3, 3, 3]
        await asyncio.gather(
            *(service.reply(_body(budget=b, seed=n)) for n, b in enumerate(budgets))
        )

    asyncio.run(talk())
    assert Counter((one.budget, one.batch) for one in seen) == {(2, 2): 2, (3, 3): 3, (3, 2): 2}


def test_who_fails_in_a_shared_call_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TESTS)
    service = _service([])

    async def talk() -> list[int]:
        prompts = ("red", "poison", "blue")
        replies = await asyncio.gather(*(service.reply(_body(prompt=p)) for p in prompts))
        return [reply.status for reply in replies]

    assert asyncio.run(talk()) == [200, 500, 200]


def test_no_request_hangs_where_a_call_gives_too_little_or_never_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(TESTS)
    end = threading.Event()
    short = Service("colours:make_too_few", num_steps=STEPS)
    late = _service([], call=0.05)
    monkeypatch.setattr(late._workshop, "make", lambda *call: end.wait())

    async def talk(asked: Service) -> list[int]:
        bodies = [_body(seed=n, budget=2 + n % 2) for n in range(4)]
        return [one.status for one in await asyncio.gather(*map(asked.reply, bodies))]

    assert asyncio.run(talk(short)) == [200] * 4  # each alone
    assert sorted(asyncio.run(talk(late))) == [500, 500, 503, 503]
    assert late.stuck
    assert asyncio.run(late.reply(_body())).status == 503
    end.set()


def test_a_service_waits_for_a_policy_where_nothing_says_how_many_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(TESTS)
    reply = asyncio.run(Service("colours:make").reply(_body()))
    assert (reply.status, b"neither a policy nor a number of steps" in reply.body) == (503, True)


def test_more_than_can_wait_are_refused_and_a_drained_service_takes_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(TESTS)
    service = _service([], waiting=2, batch=1)

    async def talk() -> tuple[list[int], int, dict[str, Any]]:
        asked = [asyncio.create_task(service.reply(_body(seed=n))) for n in range(5)]
        await asyncio.sleep(0)  # each has its place, or is refused
        await service.drain()
        late = await service.reply(_body())
        return [(await one).status for one in asked], late.status, service.health()

    statuses, late, health = asyncio.run(talk())
    assert statuses == [200, 200, 429, 429, 429]
    assert (late, health) == (503, {"status": "draining", "waiting": 0})


def test_nobody_works_for_who_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TESTS)
    seen: list[Served] = []
    service = _service(seen, batch=1)

    async def talk() -> None:
        asked = [asyncio.create_task(service.reply(_body(seed=n))) for n in range(3)]
        await asyncio.sleep(0)
        asked[2].cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await service.drain()

    asyncio.run(talk())
    assert Counter(one.status for one in seen) == {200: 2, GONE: 1}


def test_another_policy_is_used_from_now_on_and_a_bad_one_changes_nothing(
    example: Any, tmp_path: Path
) -> None:
    import otcache
    from otcache.pipelines import open_pipeline

    recipe = otcache.Recipe(ladder=(2, 4), cost_samples=1, anchor_trials=1, climb_trials=1)
    loop = open_pipeline("colours:make").target
    policy = otcache.plan(
        otcache.calibrate(loop, ["red", "blue"], STEPS, recipe=recipe, progress=False)
    )
    path = tmp_path / "colours.otcache"
    policy.save(path)
    client = Client(example.make_app("colours:make", path, limits=LIMITS))

    async def chunks() -> AsyncIterator[bytes]:
        yield b""

    async def talk() -> list[int]:
        statuses = [(await client.ask(prompt="red", quality="fast"))[0]]
        statuses.append((await client.send("POST", "/reload"))[0])
        path.write_text("{}")
        statuses.append((await client.send("POST", "/reload"))[0])
        statuses.append((await client.ask(prompt="red", budget=3))[0])
        statuses.append((await client.send("GET", "/health"))[0])
        statuses.append((await client.send("GET", "/generate"))[0])
        return statuses

    assert asyncio.run(talk()) == [200, 200, 500, 200, 200, 404]
