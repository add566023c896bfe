"""On a cluster of two cores: the local runner's images, whoever dies; rows of Ray Data; a deployment."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray import serve

import otcache_ray
from otcache.generation.job import Job
from otcache.generation.runner import generate
from otcache.processes import EndedError, Worker
from otcache_core import OtcacheError
from otcache_ray.runner import on_cluster

TESTS = Path(__file__).parents[3] / "tests"  # where colours.py is
PIPELINE, STEPS = "colours:make", 6
JOB = Job(PIPELINE, "", 3, num_steps=STEPS, batch_size=2)
PROMPTS = ("red", "blue", "poison", "white", "yellow")


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(TESTS)
        patch.syspath_prepend(str(TESTS))
        known = filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])
        patch.setenv("PYTHONPATH", os.pathsep.join(known))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def _manifest(folder: Path) -> list[tuple[int, int, str]]:
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return [(line["sample"], line["seed"], line["sha256"]) for line in lines]


def test_the_files_are_those_of_the_local_runner_though_a_worker_dies(tmp_path: Path) -> None:
    texts = [*PROMPTS, f"deadly {tmp_path / 'died'}"]
    (tmp_path / "prompts.txt").write_text("\n".join(texts), encoding="utf-8")
    by_ray = generate(JOB, tmp_path / "prompts.txt", str(tmp_path / "ray"), workers=2, runner="ray")
    assert (tmp_path / "died").exists()
    here = generate(JOB, tmp_path / "prompts.txt", str(tmp_path / "local"), workers=0)
    assert (by_ray.made, len(by_ray.failed)) == (here.made, len(here.failed)) == (5, 1)
    assert _manifest(tmp_path / "ray") == _manifest(tmp_path / "local")
    assert ray.is_initialized()  # whoever began the cluster ends it


def _said(worker: Worker) -> dict[str, Any]:
    while True:
        event = worker.event(1.0)
        if event is not None and event["event"] not in ("", "waiting"):
            return event


def test_a_worker_has_time_until_there_is_room(tmp_path: Path) -> None:
    """And its process ends with it."""
    words = [
        "python3",
        "-c",
        'print(\'{"event": "ready"}\', flush=True); input(); raise SystemExit(7)',
    ]
    with on_cluster(2, num_cpus=2) as start, start(words, tmp_path / "a.log", 0) as first:
        assert _said(first) == {"event": "ready"}
        with start(words, tmp_path / "b.log", 0) as second:
            assert second.event(0.1) == {"event": "waiting"}
        first.give({})
        with pytest.raises(EndedError) as ended:
            _said(first)
        assert ended.value.code == 7


def _rows(**more: Any) -> list[dict[str, Any]]:
    rows = [{"prompt": prompt, "number": n} for n, prompt in enumerate(PROMPTS)]
    generator = {"pipeline": PIPELINE, "num_steps": STEPS, **more}
    made = ray.data.from_items(rows).map_batches(
        otcache_ray.Generator,
        fn_constructor_kwargs=generator,
        batch_size=2,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    )
    return sorted(made.iter_rows(), key=lambda row: row["number"])


def test_rows_of_a_ray_data_pipeline(tmp_path: Path) -> None:
    rows = _rows(budget=3, out=str(tmp_path))
    assert [row["reason"] for row in rows] == ["", "", "ValueError: no such colour", "", ""]
    assert {row["executed"] for row in rows if not row["reason"]} == {3}
    assert len({row["seed"] for row in rows}) == len(rows)
    files = [tmp_path / row["path"] for row in rows if not row["reason"]]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)
    direct = otcache_ray.Generator(PIPELINE, budget=3, num_steps=STEPS)
    again = direct({"prompt": np.array(["red"])})
    assert again["sha256"] == [rows[0]["sha256"]]
    assert again["file"] == [files[0].read_bytes()]


def test_rows_that_differ_in_anything_have_files_of_their_own(tmp_path: Path) -> None:
    made = otcache_ray.Generator(PIPELINE, budget=3, num_steps=STEPS, out=str(tmp_path))
    other = otcache_ray.Generator(PIPELINE, budget=4, num_steps=STEPS, out=str(tmp_path))
    prompts = np.array(["red", "red", None, "", "blue"], dtype=object)
    seeds = np.array([1, 2, 3, 4, -1])
    rows = made({"prompt": prompts, "seed": seeds})
    assert [bool(reason) for reason in rows["reason"]] == [False, False, True, True, True]
    paths = [*rows["path"][:2], *other({"prompt": prompts[:2], "seed": seeds[:2]})["path"]]
    assert len(set(paths)) == 4


@pytest.mark.remedy("a batch must have a column {}, got {}: rename one to it.")
def test_what_a_generator_cannot_do_is_an_error_at_once() -> None:
    with pytest.raises(OtcacheError, match="a budget or a quality"):
        otcache_ray.Generator(PIPELINE)
    with pytest.raises(OtcacheError, match="needs a policy"):
        otcache_ray.Generator(PIPELINE, quality="high")
    made = otcache_ray.Generator(PIPELINE, budget=3, num_steps=STEPS)
    with pytest.raises(OtcacheError, match="must have a column 'prompt', got text"):
        made({"text": np.array(["red"])})
    assert made({"prompt": np.array(["red"])})["reason"] == [""]
    made = otcache_ray.Generator(PIPELINE, budget=3, num_steps=STEPS)
    with pytest.raises(OtcacheError, match="the first 5 rows fail alike: ValueError"):
        made({"prompt": np.array(["poison"] * 5)})


class _Request:
    """What a deployment reads of a request."""

    def __init__(self, **fields: Any) -> None:
        self._body = json.dumps(fields).encode()

    async def stream(self) -> Any:
        yield self._body


def test_a_replica_answers_and_keeps_its_policy_where_another_is_none(tmp_path: Path) -> None:
    server = otcache_ray.Server(PIPELINE, num_steps=STEPS, limits={"prompt": 20})

    async def talk() -> list[Any]:
        requests = [_Request(prompt="red", budget=b) for b in (2, 3)]
        requests += [_Request(prompt="red" * 9, budget=2), _Request(prompt="red", budget="ten")]
        return await asyncio.gather(*map(server, requests))  # type: ignore[arg-type]

    replies = asyncio.run(talk())
    assert [reply.status_code for reply in replies] == [200, 200, 400, 400]
    assert [reply.headers["x-otcache-executed"] for reply in replies[:2]] == ["2", "3"]
    (tmp_path / "bad.otcache").write_text("{}")
    with pytest.raises(OtcacheError):  # a replica does not start with it
        server.reconfigure({"policy": str(tmp_path / "bad.otcache")})
    server.reconfigure({})
    server.reconfigure({"policy": str(tmp_path / "bad.otcache")})
    server.check_health()


def _asked(port: int, **fields: Any) -> tuple[int, str | None]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    link.request("POST", "/generate", json.dumps(fields))
    reply = link.getresponse()
    reply.read()
    return reply.status, reply.getheader("x-otcache-executed")


def test_a_deployment_on_loopback() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    serve.start(http_options={"port": port})
    try:
        app = otcache_ray.app(PIPELINE, num_steps=STEPS, ray_actor_options={"num_cpus": 1})
        serve.run(app, route_prefix="/generate")
        with ThreadPoolExecutor(4) as clients:
            budgets = [1 + n % 5 for n in range(20)]
            found = list(clients.map(lambda b: _asked(port, prompt="red", budget=b), budgets))
        assert found == [(200, str(budget)) for budget in budgets]
        assert _asked(port, prompt="red", budget="ten")[0] == 400
        assert _asked(port, prompt="r" * 2**20, budget=2)[0] == 413
        assert _asked(port, prompt="red", budget=2) == (200, "2")
    finally:
        serve.shutdown()


def test_a_deployment_takes_the_options_of_serve() -> None:
    made = otcache_ray.app(PIPELINE, num_steps=STEPS, num_replicas=2, policy="a.otcache")
    deployment = made._bound_deployment
    assert deployment.num_replicas == 2
    assert deployment.user_config == {"policy": "a.otcache"}
