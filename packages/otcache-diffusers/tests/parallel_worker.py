"""One rank of two: runs a context-parallel Flux plain and accelerated, and prints what it saw as JSON.

Arguments: rank, path of a file to meet at.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import tiny
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch.utils._python_dispatch import TorchDispatchMode

from otcache_core import Schedule
from otcache_diffusers.execution.executor import TorchExecutor

N = 6
SCHEDULE = Schedule(N, (0, 1, 4), "variable-order")
FULL = Schedule.full(N)


class Collectives(TorchDispatchMode):
    """Counts what is sent to other ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional") and "wait" not in func.__name__:
            self.count += 1
        return func(*args, **(kwargs or {}))


def _counted(run: Callable[[], torch.Tensor]) -> tuple[int, list[float]]:
    with Collectives() as collectives:
        made = run()
    return collectives.count, made.flatten().tolist()


def main(rank: int, meet: str) -> dict[str, Any]:
    """Return what one rank saw."""
    case = tiny.flux(cfg=True)
    single = case(N)
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        wanted = case(N)
    torch.accelerator.device_count = lambda: 1  # diffusers divides by it
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    case.denoiser.set_attention_backend("native")
    case.denoiser.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    plain, made = _counted(lambda: case(N))
    with TorchExecutor().attach(case.pipe, FULL):
        full, same = _counted(lambda: case(N))
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        skipping, accelerated = _counted(lambda: case(N))
    again = _counted(lambda: case(N))
    dist.destroy_process_group()
    close = torch.allclose(torch.tensor(made), single.flatten(), atol=1e-4)
    near = torch.allclose(torch.tensor(accelerated), wanted.flatten(), atol=1e-4)
    return {
        "collectives": {"plain": plain, "full": full, "skipping": skipping, "again": again[0]},
        "identical": made == same == again[1],
        "as on one rank": [close, near],
        "accelerated": accelerated,
        "report": [run.report.computed, run.report.skipped, run.report.warnings],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), sys.argv[2])) + "\n")
