"""Which policies run at a point, and on how many windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from irouter.evaluation.registry import registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from irouter.bench.suite import Mode, Point, Suite

QUEUES = ("queued", "queued-shortest")
"""Prefixes that put an immediate policy behind a central queue: in order of arrival, or shortest predicted first."""


def columns(suite: Suite, point: Point, policies: Sequence[str] | None) -> list[str]:
    """Names of the policies that run at a point, the suite's reference first.

    Args:
        suite: The suite.
        point: The point.
        policies: The policies that the caller asks for, in place of those of the point. Without either, every policy of
            the package runs as shipped, and every rule of another router equalised as well; at points that ask for it,
            these also behind a central queue.
    """
    if policies is not None:
        chosen = list(policies)
    elif point.policies:
        chosen = list(point.policies)
    else:
        peers = [policy.name for policy in registry().values() if policy.origin == "peer"]
        chosen = [*registry(), *(f"equalised:{name}" for name in peers)]
        if point.queued:
            chosen += [f"{queue}:{name}" for queue in QUEUES for name in peers]
    return list(dict.fromkeys([suite.reference, *chosen]))


def windows(suite: Suite, mode: Mode, point: Point, policy: str) -> int:
    """How many windows of a point a policy runs on: fewer for one that the suite knows as slow, never the reference."""
    limited = mode.limited and policy != suite.reference
    limit = suite.limits.get(rule(policy)) if limited else None
    most = mode.capacity_windows if point.kind == "capacity" else mode.windows
    return min(count for count in (most, point.windows, limit) if count is not None)


def rule(policy: str) -> str:
    """The rule that a policy is a variant of: `least_kv` for `equalised:least_kv` or `least_kv(option=1)`."""
    return policy.partition("(")[0].rpartition(":")[2].strip()
