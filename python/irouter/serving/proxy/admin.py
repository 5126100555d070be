"""The admin API: instances come and go while the proxy serves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from irouter import profiles
from irouter._core import IrouterError
from irouter._names import unknown
from irouter.serving.instances import Instance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from irouter.serving.proxy.addresses import Allowed, GuardedResolver
    from irouter.serving.proxy.discovery import Discovery
    from irouter.serving.proxy.pool import Pool

_PATH: Final = "/admin/instances"
_FIELDS: Final = ("url", "model", "profile")


class AdminApi:
    """Lists, registers and takes out instances. Who may ask is for the door to say."""

    def __init__(
        self,
        pools: Mapping[str | None, Pool],
        discovery: Discovery,
        allowed: Allowed,
        resolver: GuardedResolver,
    ) -> None:
        self._pools = pools
        self._discovery = discovery
        self._allowed = allowed
        self._resolver = resolver
        self.routes = [
            web.get(_PATH, self.list),
            web.post(_PATH, self.register),
            web.delete(_PATH, self.unregister),
        ]

    async def list(self, _request: web.Request) -> web.Response:
        """Every instance: URL, model, source, status, share and requests."""
        sources = self._discovery.sources()
        found = [
            {
                "url": entry.url,
                "model": model,
                "source": sources.get(entry.url),
                "status": entry.status,
                "share": entry.share,
                "in_flight": entry.in_flight,
            }
            for model, pool in self._pools.items()
            for entry in pool.router.instances
            if entry.status != "gone"
        ]
        return web.json_response({"instances": found})

    async def register(self, request: web.Request) -> web.Response:
        """Adds the instance of the body's `url`, `model` (where there are several) and maybe `profile`.

        Raises:
            IrouterError: For one that is not allowed, is there, or serves a model that there is not.
        """
        asked = _fields(await request.read())
        url = asked["url"].rstrip("/")
        model = asked.get("model")
        pool = self._pools.get(model)
        if pool is None:
            there = ", ".join(f"`{name}`" for name in self._pools if name is not None) or "none"
            raise IrouterError(f"`model` is {model!r:.60}, expected {there}")
        profile = asked.get("profile")
        # A file is for who can read files here.
        if profile is not None and profile not in profiles.names():
            raise unknown("profile", profile, profiles.names(), "expected one of `irouter profiles list`")
        await self._allowed.check(url)
        self._resolver.registered(url)
        self._discovery.register(model, Instance(url, profile or pool.config.profile))
        return web.json_response({"url": url, "model": model}, status=201)

    async def unregister(self, request: web.Request) -> web.Response:
        """Takes out the instance of the query's `url`; it finishes the requests that it has.

        Raises:
            IrouterError: For one that is not there, or comes from a file or DNS.
        """
        url = request.query.get("url", "").rstrip("/")
        self._discovery.unregister(url)
        return web.json_response({"url": url}, status=202)


def _fields(raw: bytes) -> dict[str, str]:
    try:
        body: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise IrouterError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise IrouterError(f"the body is a {type(body).__name__}, expected an object")
    for name, value in body.items():
        if name not in _FIELDS:
            raise unknown("field", name, _FIELDS, f"there are {', '.join(_FIELDS)}")
        if not isinstance(value, str):
            raise IrouterError(f"`{name}` is {value!r:.60}, expected text")
    if "url" not in body:
        raise IrouterError("the body has no `url`, expected one")
    return body
