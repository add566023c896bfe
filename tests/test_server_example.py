"""The server of examples/ in small: over loopback, two pipelines, mixed budgets, clients that hang up."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_flux
import torch

import otcache


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    path = Path(__file__).parent.parent / "examples" / "server.py"
    spec = importlib.util.spec_from_file_location("server_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BUDGETS", (2, 3, 4, tiny_flux.N))
    return module


class Tiny:
    """A pipeline that needs no text encoder: prompts are lengths of embeddings here."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def __call__(self, prompt: str, generator: torch.Generator, **call: Any) -> Any:
        with torch.no_grad():
            return self.pipe(
                prompt_embeds=tiny_flux.noise(1, 4, 8, seed=len(prompt)),
                pooled_prompt_embeds=tiny_flux.noise(1, 8),
                generator=generator,
                height=16,
                width=16,
                **call,
            )


@pytest.fixture
def server(example: Any) -> Iterator[Any]:
    pipe = tiny_flux.make_flux()
    pipes = {"one": pipe, "twin": tiny_flux.twin_of(pipe)}
    handles = {name: otcache.enable(p, tiny_flux.make_policy()) for name, p in pipes.items()}
    yield example.Server(
        {n: example.Model(Tiny(pipes[n]), handles[n], {}, tiny_flux.N) for n in pipes}
    )
    for handle in handles.values():
        handle.remove()
    assert "forward" not in vars(pipe.transformer)


def test_every_report_is_its_request_s_and_nothing_waits_for_ever(
    example: Any, server: Any
) -> None:
    tally = asyncio.run(example.try_it(server, 12, at_once=6, impatient=0.001))
    assert tally.wrong == []
    assert tally.answered + tally.cancelled == 12
    assert tally.answered >= 10


def test_a_bad_request_is_answered_and_the_next_one_served(example: Any, server: Any) -> None:
    tally = example.Tally()
    good = {"model": "one", "prompt": "a", "seed": 0, "budget": 2}

    async def main() -> None:
        service = await asyncio.start_server(server.answer, "127.0.0.1", 0)
        async with service:
            port = service.sockets[0].getsockname()[1]
            for asked in ({**good, "budget": 99}, {**good, "model": "none"}, good, good):
                await example.client(port, asked, 60.0, tally)

    asyncio.run(main())
    assert (tally.answered, len(tally.wrong)) == (4, 2)
    assert "budget" in tally.wrong[0]
