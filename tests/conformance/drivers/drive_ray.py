"""Ray Serve's request routers under an event script: runs in the environment of `ray[serve]`.

Reads one header line and one event per line from standard input, and writes for each submitted request one line with
the replica that Ray would take. The replicas are stand-ins that answer a probe of their queue length with the requests
in flight; the prefix tree is Ray's own, called in this process and not through an actor. No cluster is started.
"""

import asyncio
import json
import random
import sys
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve._private.request_router import PowerOfTwoChoicesRequestRouter
from ray.serve._private.request_router.common import PendingRequest

DEPLOYMENT = DeploymentID(name="d")


class Replica:
    """What a router reads of a replica."""

    node_id = "node"
    availability_zone = None
    multiplexed_model_ids: frozenset[str] = frozenset()
    max_ongoing_requests = 1_000_000

    def __init__(self, number: int) -> None:
        self.replica_id = ReplicaID(unique_id=str(number), deployment_id=DEPLOYMENT)
        self.in_flight = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        del deadline_s
        return self.in_flight


class LocalActor:
    """Calls the methods of an object as if it were an actor: `actor.method.remote(...)`."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=getattr(self._target, name))


class Routing:
    """A router of Ray Serve, its replicas and the requests in flight."""

    def __init__(self, instances: int, router: str, arguments: dict[str, Any]) -> None:
        common = {
            "deployment_id": DEPLOYMENT,
            "handle_source": DeploymentHandleSource.REPLICA,
            "use_replica_queue_len_cache": False,
        }
        if router == "prefix_affinity":
            from ray.llm._internal.serve.routing_policies.prefix_aware import prefix_aware_router
            from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_tree import PrefixTree

            # The tree is in this process: what an actor's call returns is its value already.
            prefix_aware_router.ray = SimpleNamespace(get=lambda value: value)
            self.router = prefix_aware_router.PrefixCacheAffinityRouter(**common)
            self.router.initialize_state(tree_actor=LocalActor(PrefixTree()), **arguments)
        else:
            self.router = PowerOfTwoChoicesRequestRouter(**common)
        self.replicas = [Replica(number) for number in range(instances)]
        self.router.update_replicas(self.replicas)
        self.placed: dict[int, Replica] = {}

    async def submit(self, event: dict[str, Any]) -> list[int]:
        metadata = RequestMetadata(
            request_id=str(event["request"]), internal_request_id=str(event["request"])
        )
        request = PendingRequest(args=[SimpleNamespace(prompt=event["text"])], kwargs={}, metadata=metadata)
        replica = await self.router._choose_replica_for_request(request)
        self.router.on_request_routed(request, replica.replica_id, None)
        self.placed[event["request"]] = replica
        replica.in_flight += 1
        return [int(replica.replica_id.unique_id)]

    async def finished(self, event: dict[str, Any]) -> None:
        self.placed.pop(event["request"]).in_flight -= 1


async def run(lines: Iterable[str]) -> None:
    lines = iter(lines)
    header = json.loads(next(lines))
    random.seed(header["seed"])
    routing = Routing(header["instances"], header["router"], header["arguments"])
    for line in lines:
        event = json.loads(line)
        handler = getattr(routing, event["event"], None)
        answer = await handler(event) if handler else None
        if answer is not None:
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(run(sys.stdin))
