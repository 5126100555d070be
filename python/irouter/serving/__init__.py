"""The live router: leases on instances for requests as they come, from asyncio and from threads."""

from irouter.serving.errors import ClosedError, DeadlineError, NoInstanceError, QueueFullError
from irouter.serving.instances import Instance, InstanceStatus
from irouter.serving.lease import Ending, Lease
from irouter.serving.router import Router

__all__ = [
    "ClosedError",
    "DeadlineError",
    "Ending",
    "Instance",
    "InstanceStatus",
    "Lease",
    "NoInstanceError",
    "QueueFullError",
    "Router",
]
