"""Who may ask."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from irouter.serving.proxy.config import ApiKey


class KeyRing:
    """Finds the tenant of a request by its key, in a time that does not depend on how much of a key is right."""

    def __init__(self, keys: tuple[ApiKey, ...]) -> None:
        self._keys = [(_digest(key.secret), key.name) for key in keys]

    def tenant(self, authorization: str | None) -> str | None:
        """The tenant whose key an `Authorization` header has; None when it has none that is right.

        Where no keys are configured everybody is the tenant `default`.
        """
        if not self._keys:
            return "default"
        scheme, _, secret = (authorization or "").partition(" ")
        given = _digest(secret.strip() if scheme.lower() == "bearer" else "")
        found = None
        for digest, name in self._keys:
            if hmac.compare_digest(digest, given):
                found = name
        return found


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
