"""One router for several processes: the daemon behind a Unix socket, and its clients."""

from irouter.serving.daemon.router import DaemonRouter, connect

__all__ = ["DaemonRouter", "connect"]
