"""A Serve application with our request router, in the environment of `ray`; prints what came of it."""

import asyncio
import collections
import gc
import json
import sys
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig

from irouter.integrations.ray_serve import IrouterRequestRouter

REQUESTS = 60
OPTIONS: dict[str, Any] = {"policy": "least_work", "profile": "llama-3.1-8b@h100"}


def application(daemon: str | None) -> Any:
    @serve.deployment(
        num_replicas=2,
        max_ongoing_requests=100,
        ray_actor_options={"num_cpus": 0},
        request_router_config=RequestRouterConfig(
            request_router_class="irouter.integrations.ray_serve:IrouterRequestRouter",
            request_router_kwargs={**OPTIONS, "daemon": daemon},
        ),
    )
    class Engine:  # of Serve, once it is decorated
        def __init__(self) -> None:
            self.name: str = serve.get_replica_context().replica_id.unique_id

        async def __call__(self, body: dict[str, Any]) -> str:
            await asyncio.sleep(body["max_tokens"] / 1000)
            if body.get("fails"):
                raise ValueError(body["prompt"])
            return self.name

        async def stream(self, body: dict[str, Any]) -> Any:
            for _ in range(body["max_tokens"]):
                yield self.name

    return Engine.bind()  # type: ignore[attr-defined]  # of a deployment


def body(number: int, **more: Any) -> dict[str, Any]:
    # Every other request is long: a count of requests would not see that, their work does.
    return {"prompt": f"Question {number}", "max_tokens": 400 if number % 2 else 10, **more}


async def settled(router: Any) -> bool:
    for _ in range(200):
        if router.statistics.in_flight == 0:
            return True
        await asyncio.sleep(0.05)
    return False


async def main(handle: Any) -> dict[str, Any]:
    replicas = await asyncio.gather(*(handle.remote(body(number)) for number in range(REQUESTS)))
    pieces = [piece async for piece in handle.options(stream=True).stream.remote(body(0))]
    failed = await asyncio.gather(
        *(handle.remote(body(1, fails=True)) for _ in range(4)), return_exceptions=True
    )
    cancelled = handle.remote(body(1, max_tokens=5000))
    await asyncio.sleep(0.5)
    cancelled.cancel()
    # Serve made them in this process, one for each handle or for all; it has no public way to them.
    found = [thing for thing in gc.get_objects() if isinstance(thing, IrouterRequestRouter)]
    idle = [await settled(request_router.router) for request_router in found]
    long = [replicas[number] for number in range(1, REQUESTS, 2)]
    endings: collections.Counter[str] = collections.Counter()
    for request_router in found:
        endings.update(
            {ending.value: count for ending, count in request_router.router.statistics.endings.items()}
        )
    return {
        "replicas": sorted(map(replicas.count, set(replicas))),
        "long": sorted(map(long.count, set(long))),
        "pieces": len(pieces),
        "failed": sum(isinstance(error, Exception) for error in failed),
        "idle": all(idle) and len(idle) > 0,
        "submitted": sum(request_router.router.statistics.submitted for request_router in found),
        "endings": endings,
        "instances": {entry.status for request_router in found for entry in request_router.router.instances}
        == {"ready"},
        "leases": sum(len(request_router._leases) for request_router in found),
    }


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    running = serve.run(application(sys.argv[1] if len(sys.argv) > 1 else None))
    print(json.dumps(asyncio.run(main(running))))
    serve.shutdown()
    ray.shutdown()
