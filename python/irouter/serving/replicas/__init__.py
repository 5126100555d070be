"""Routers on several hosts that share engines: slots of each instance, divided through Redis."""

from irouter.serving.replicas.replica import Replica

__all__ = ["Replica"]
