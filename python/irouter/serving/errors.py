"""Why a live router gives no lease."""

from irouter._core import IrouterError


class NoInstanceError(IrouterError):
    """No instance takes the request now: all are draining, gone, excluded or too small."""


class QueueFullError(IrouterError):
    """As many requests wait as may wait."""


class DeadlineError(IrouterError):
    """The deadline of a request passed while it waited at the router."""


class ClosedError(IrouterError):
    """The router was closed, or belongs to the process that this one was forked from."""


class DisconnectedError(IrouterError):
    """The daemon that a router asks is not there, or went away while the request waited there."""
