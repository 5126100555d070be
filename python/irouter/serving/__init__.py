"""The live router: leases on instances for requests as they come, from asyncio and from threads."""

from irouter.serving.daemon import DaemonRouter, connect
from irouter.serving.errors import (
    ClosedError,
    DeadlineError,
    DisconnectedError,
    NoInstanceError,
    QueueFullError,
)
from irouter.serving.instances import Instance, InstanceStatus
from irouter.serving.lease import Ending, Lease, RouterStatistics
from irouter.serving.replicas import Replica
from irouter.serving.router import Router

__all__ = [
    "ClosedError",
    "DaemonRouter",
    "DeadlineError",
    "DisconnectedError",
    "Ending",
    "Instance",
    "InstanceStatus",
    "Lease",
    "NoInstanceError",
    "QueueFullError",
    "Replica",
    "Router",
    "RouterStatistics",
    "connect",
]
