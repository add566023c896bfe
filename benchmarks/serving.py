"""500 requests of mixed budgets from 8 clients, beside hostile ones: ``python benchmarks/serving.py OUT``.

Starts examples/serve on loopback with the image demo at N = 12 (``--ray``: a Ray Serve deployment), sends it
what clients and attackers send, and counts: every request must have its reply, with as many computed steps as
it asked for; a budget "ten", a megabyte of prompt, a connection cut in the middle and a client that sends a
byte a second cost their own reply. Writes OUT/serving.json; exit status 1 if anything was lost.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from demo_runs import parser

CLIENTS, REQUESTS, STEPS, LIMIT = 8, 500, 12, 900
BUDGETS = (2, 3, 4, 6, 12)
PROMPTS = ("a large red circle", "a small blue square", "a green star", "the digit 7")
APP = Path(__file__).parents[1] / "examples" / "serve" / "app.py"
RAY = """
import ray, otcache_ray
from ray import serve
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={{"port": {port}}})
serve.run(otcache_ray.app("demo", num_steps={steps}), route_prefix="/generate", blocking=True)
"""


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def server(ray: bool) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Start a server, and wait until it answers; yields its port and process."""
    port = _free_port()
    words = [str(APP), "demo", "--steps", str(STEPS), "--port", str(port)]
    if ray:
        words = ["-c", RAY.format(port=port, steps=STEPS)]
    with subprocess.Popen([sys.executable, *words], start_new_session=True) as process:
        try:
            ends = time.monotonic() + 300
            while ask(port, b'{"prompt": "red", "budget": 1}')[0] != 200:
                if process.poll() is not None or time.monotonic() > ends:
                    raise RuntimeError("the server did not start")
                time.sleep(1)
            yield port, process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def ask(port: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send a request; status 0 if there is no answer."""
    try:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        link.request("POST", "/generate", body)
        reply = link.getresponse()
        found = reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()
        link.close()
    except (OSError, http.client.HTTPException):
        return 0, {}, b""
    return found


def friendly(port: int, number: int) -> tuple[int, str, float]:
    """Send one of the requests; returns its status, what is wrong with the reply, and the seconds."""
    chance = random.Random(number)
    budget = chance.choice(BUDGETS)
    asked = {"prompt": chance.choice(PROMPTS), "budget": budget, "seed": number}
    began = time.perf_counter()
    status, headers, data = ask(port, json.dumps(asked).encode())
    seconds = time.perf_counter() - began
    fault = ""
    if status == 200:
        got = headers.get("x-otcache-executed")
        if got != str(budget):
            fault = f"asked for {budget} steps, got {got}"
        elif not data.startswith(b"\x89PNG"):
            fault = "no PNG"
    return status, fault, seconds


def _cut(port: int) -> None:
    """Hang up once the request is sent."""
    body = b'{"prompt": "a green star", "budget": 12}'
    with socket.create_connection(("127.0.0.1", port)) as link:
        head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        link.sendall(head.encode() + body)


def _slow(port: int) -> int:
    """Send a byte a second; returns the status."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
        link.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 60\r\n\r\n")
        link.settimeout(1.0)
        for _ in range(60):
            try:
                link.sendall(b"{")
                answer = link.recv(64)
            except TimeoutError:
                continue
            except OSError:
                return 0
            return int(answer.split()[1]) if answer else 0
    return 0


def hostile(port: int, stop: threading.Event, seen: Counter[str]) -> None:
    """Send what nobody should, again and again."""
    bad = {
        "budget 'ten'": b'{"prompt": "red", "budget": "ten"}',
        "a megabyte of prompt": json.dumps({"prompt": "r" * 2**20, "budget": 3}).encode(),
        "budget 0": b'{"prompt": "red", "budget": 0}',
        "no JSON": b"\x00\xff",
    }
    while not stop.is_set():
        for name, body in bad.items():
            seen[f"{name}: {ask(port, body)[0]}"] += 1
        _cut(port)
        seen["a cut connection"] += 1
        seen[f"a byte a second: {_slow(port)}"] += 1


def main() -> int:
    """Run everything and print what was counted."""
    command = parser(__doc__)
    command.add_argument("--ray", action="store_true", help="as a Ray Serve deployment")
    command.add_argument("--requests", type=int, default=REQUESTS)
    options = command.parse_args()
    stop, seen = threading.Event(), Counter[str]()
    with server(options.ray) as (port, _), ThreadPoolExecutor(CLIENTS) as clients:
        enemy = threading.Thread(target=hostile, args=(port, stop, seen))
        enemy.start()
        began = time.perf_counter()
        replies = list(clients.map(lambda n: friendly(port, n), range(options.requests)))
        total = time.perf_counter() - began
        stop.set()
        enemy.join()
        last = friendly(port, 0)
    seconds = sorted(one[2] for one in replies)
    faults = [fault for _, fault, _ in replies if fault]
    found: dict[str, Any] = {
        "requests": len(replies),
        "statuses": dict(Counter(str(status) for status, _, _ in replies)),
        "of another budget": len(faults),
        "requests a second": round(len(replies) / total, 2),
        "seconds, median and 95 %": [
            round(statistics.median(seconds), 2),
            round(seconds[int(0.95 * len(seconds))], 2),
        ],
        "hostile": dict(sorted(seen.items())),
        "answers after all of it": last[0] == 200,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "serving.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps(found, indent=1), *faults[:5], sep="\n")
    return int(found["statuses"] != {"200": len(replies)} or bool(faults) or last[0] != 200)


if __name__ == "__main__":
    sys.exit(main())
