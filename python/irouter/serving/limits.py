"""What bounds requests at a live router."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What bounds requests at a live router.

    Attributes:
        lease_ttl_s: A lease of which nothing is heard for so long has failed; it is found within a quarter of
            the time more.
        max_waiting: Most requests that wait.
        renew_after_s: When the state machine's clock, which ends after 106 days, begins anew.
    """

    lease_ttl_s: float
    max_waiting: int
    renew_after_s: float = 90 * 86_400.0
