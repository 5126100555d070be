"""Who may ask what: clients by their keys, the admin API and the dashboard by theirs."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final

from aiohttp import web

from irouter.serving.openai import error_body
from irouter.serving.proxy.config import ApiKey, is_loopback
from irouter.serving.proxy.keys import KeyRing

if TYPE_CHECKING:
    from irouter.serving.proxy.config import ProxyConfig

ADMIN: Final = "/admin/"
DASHBOARD: Final = "/dashboard"


class Door:
    """Tells tenants from strangers.

    The health is open to all. The admin API needs the admin key, and is not there without one. The dashboard needs
    that key too, which browsers send as the password of any user; without one it is there only where nobody needs
    a key, on loopback, and then for requests that name loopback as their host: a page from elsewhere whose name was
    made to stand for this machine does not get it.
    """

    def __init__(self, config: ProxyConfig) -> None:
        self._config = config
        self._clients = KeyRing(config.keys)
        self._admins = None if config.admin_key is None else KeyRing((ApiKey("admin", config.admin_key),))

    def ask(self, request: web.Request) -> tuple[str | None, web.Response | None]:
        """The tenant of a client's request, None for others; and a refusal, None for who may come in."""
        path = request.path
        if path == "/health":
            return None, None
        if path.startswith(ADMIN):
            return None, self._admin(request)
        if path == DASHBOARD or path.startswith(DASHBOARD + "/"):
            return None, self._dashboard(request)
        tenant = self._clients.tenant(request.headers.get("Authorization"))
        return tenant, _unknown("Bearer") if tenant is None else None

    def _admin(self, request: web.Request) -> web.Response | None:
        if self._admins is None:
            return _absent()
        # No password of a browser: it would send it along with what other pages make it ask.
        known = self._admins.tenant(request.headers.get("Authorization"))
        return _unknown("Bearer") if known is None else None

    def _dashboard(self, request: web.Request) -> web.Response | None:
        if self._admins is not None:
            given = request.headers.get("Authorization")
            known = self._admins.tenant(given) or self._admins.tenant(_password(given))
            return _unknown('Basic realm="irouter"') if known is None else None
        named = request.url.host or ""
        if not self._config.dashboard_is_there or not is_loopback(named):
            return _absent()
        return None


def _password(authorization: str | None) -> str | None:
    """A password in place of a key, as one."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    return "Bearer " + decoded.partition(":")[2]


def _unknown(challenge: str) -> web.Response:
    body = error_body("the API key is missing or wrong", kind="authentication_error", code=401)
    return web.json_response(body, status=401, headers={"WWW-Authenticate": challenge})


def _absent() -> web.Response:
    return web.json_response(error_body("Not Found", code=404), status=404)
