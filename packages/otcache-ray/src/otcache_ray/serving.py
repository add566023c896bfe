"""A Ray Serve deployment: a budget or a quality for each request."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.util.metrics import Counter, Gauge, Histogram
from starlette.requests import Request
from starlette.responses import Response

from otcache.generation.service import Limits, Served, Service
from otcache_core import OtcacheError

LOGGER = logging.getLogger("ray.serve")

#: Bounds of seconds in the histogram.
BOUNDS = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300]


class Metrics:
    """What a replica did, beside Ray's own metrics for Prometheus; with the names of examples/serve."""

    def __init__(self) -> None:
        keys = ("status", "budget")
        self._requests = Counter("otcache_requests", "Requests by status and budget.", keys)
        self._planned = Counter("otcache_planned_steps", "Steps that budgets asked for.")
        self._executed = Counter("otcache_executed_steps", "Steps that were computed.")
        self._notices = Counter("otcache_notices", "Notices of runs.")
        self._seconds = Histogram(
            "otcache_seconds", "From a request's body to its reply.", BOUNDS, ("budget",)
        )
        self.waiting = Gauge("otcache_waiting", "Requests that wait.")

    def observe(self, served: Served) -> None:
        """Count a request."""
        self._requests.inc(tags={"status": str(served.status), "budget": str(served.budget)})
        if served.executed:
            self._planned.inc(served.budget)
            self._executed.inc(served.executed)
            self._seconds.observe(served.seconds, tags={"budget": str(served.budget)})
        if served.notices:
            self._notices.inc(served.notices)


class Server:
    """A replica: opens the pipeline by its name, and answers ``POST`` requests as examples/serve does.

    Requests of one budget that wait on a replica share a pipeline call. ``user_config={"policy": PATH}``
    names the policy; with another one in it, ``serve.run`` or ``serve deploy`` has the replicas read that,
    and none is started again.

    Args:
        pipeline: as the command line names it.
        policy: path of its policy, that every machine sees; None: without calibration.
        num_steps: N; None: the policy's, or the pipeline's own.
        call: further arguments of every call.
        limits: arguments of :class:`otcache.generation.service.Limits`.

    Raises:
        OtcacheError: if the pipeline cannot be opened, or the policy is of another one.
    """

    def __init__(
        self,
        pipeline: str,
        policy: str | None = None,
        num_steps: int | None = None,
        call: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        self._metrics, self._configured = Metrics(), policy is not None
        self._service = Service(
            pipeline,
            policy,
            num_steps=num_steps,
            call=call,
            limits=Limits(**(limits or {})),
            observe=self._metrics.observe,
        )

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Use another policy from now on; after the first one, one that does not fit leaves what there is."""
        try:
            if config.get("policy"):
                self._service.reload(config["policy"])
        except OtcacheError as error:
            if not self._configured:
                raise
            LOGGER.error("the policy stays what it was: %s", error)
        self._configured = True

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        reply = await self._service.receive(request.stream())
        self._metrics.waiting.set(self._service.health()["waiting"])
        return Response(reply.body, reply.status, reply.headers)

    def check_health(self) -> None:
        """Raise where this replica cannot go on: a pipeline call hangs."""
        if self._service.stuck:
            raise RuntimeError("a pipeline call hangs")


def app(pipeline: str, policy: str | None = None, **options: Any) -> Any:
    """Return a Ray Serve application: ``serve.run(otcache_ray.app("demo", num_steps=30))``.

    Args:
        pipeline: as of :class:`Server`.
        policy: as of :class:`Server`.
        options: those of :class:`Server` go to it, all others, such as ``num_replicas`` and
            ``ray_actor_options``, to ``serve.deployment``.
    """
    own = {name: options.pop(name) for name in ("num_steps", "call", "limits") if name in options}
    config = {"policy": policy} if policy else None
    defaults: dict[str, Any] = {
        "user_config": config,
        "max_ongoing_requests": 64,
        "max_queued_requests": 256,
        "graceful_shutdown_timeout_s": 600.0,
    }
    deployment = serve.deployment(Server).options(name="otcache", **{**defaults, **options})
    return deployment.bind(pipeline, None, **own)
