"""Ray Serve's own request routing with our router, without a cluster: runs in the environment of `ray[serve]`.

Replicas are stand-ins that answer a probe of their queue. What came of each scene is printed as JSON.
"""

import asyncio
import json
from typing import Any

from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve._private.request_router.common import PendingRequest

from irouter.integrations.ray_serve import IrouterRequestRouter

DEPLOYMENT = DeploymentID(name="d")


class Replica:
    """What a router reads of a replica."""

    node_id = "node"
    availability_zone = None
    multiplexed_model_ids: frozenset[str] = frozenset()
    max_ongoing_requests = 4

    def __init__(self, name: str) -> None:
        self.replica_id = ReplicaID(unique_id=name, deployment_id=DEPLOYMENT)
        self.in_flight = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        del deadline_s
        return self.in_flight


def make(*names: str, **options: Any) -> tuple[IrouterRequestRouter, list[Replica]]:
    router = IrouterRequestRouter(
        deployment_id=DEPLOYMENT,
        handle_source=DeploymentHandleSource.REPLICA,
        use_replica_queue_len_cache=False,
    )
    router.initialize_state(**{"policy": "least_work", "profile": "llama-3.1-8b@h100", **options})
    replicas = [Replica(name) for name in names]
    router.update_replicas(replicas)
    return router, replicas


def request(number: int, **body: Any) -> PendingRequest:
    metadata = RequestMetadata(request_id=str(number), internal_request_id=str(number))
    return PendingRequest(args=[{"prompt": "Hello", **body}], kwargs={}, metadata=metadata)


async def choose(router: Any, number: int, **body: Any) -> str:
    replica = await router._choose_replica_for_request(request(number, **body))
    return str(replica.replica_id.unique_id)


def state(router: Any) -> dict[str, Any]:
    statistics = router.router.statistics
    return {
        "in_flight": statistics.in_flight,
        "endings": {ending.value: count for ending, count in statistics.endings.items()},
        "leases": len(router._leases),
    }


async def by_work() -> Any:
    router, replicas = make("a", "b")
    chosen = [await choose(router, 0, max_tokens=2000)]
    chosen += [await choose(router, number, max_tokens=10) for number in range(1, 4)]
    for number, name in enumerate(chosen):
        replica = next(replica for replica in replicas if replica.replica_id.unique_id == name)
        router.on_request_completed(replica.replica_id, str(number))
    return {"chosen": chosen, **state(router)}


async def full_replicas_are_left_out() -> Any:
    router, (first, second) = make("a", "b")
    first.in_flight = first.max_ongoing_requests
    chosen = [await choose(router, number, max_tokens=10) for number in range(3)]
    for number in range(3):
        router.on_request_completed(second.replica_id, str(number))
    return {"chosen": chosen, **state(router)}


async def cancelled_while_all_are_full() -> Any:
    router, replicas = make("a", "b")
    for replica in replicas:
        replica.in_flight = replica.max_ongoing_requests
    waits = asyncio.create_task(choose(router, 0, max_tokens=10))
    await asyncio.sleep(0.3)
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    await asyncio.sleep(0.1)
    return state(router)


async def replicas_come_and_go() -> Any:
    router, (first, second) = make("a", "b")
    chosen = {number: await choose(router, number, max_tokens=10) for number in range(4)}
    router.on_replica_actor_died(first.replica_id)
    after = [await choose(router, number, max_tokens=10) for number in range(4, 8)]
    for number in range(8):
        router.on_request_completed(second.replica_id, str(number))
    router.update_replicas([Replica("c")])
    return {
        "before": sorted(chosen.values()),
        "after": after,
        "new": await choose(router, 8),
        **state(router),
    }


async def main() -> None:
    scenes = (by_work, full_replicas_are_left_out, cancelled_while_all_are_full, replicas_come_and_go)
    print(json.dumps({scene.__name__: await asyncio.wait_for(scene(), 60) for scene in scenes}))


if __name__ == "__main__":
    asyncio.run(main())
