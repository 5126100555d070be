"""Which pool serves which model, and the list of models."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from irouter._core import IrouterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from irouter.serving.proxy.config import ProxyConfig
    from irouter.serving.proxy.pool import Pool


class UnknownModelError(IrouterError):
    """A request asks for a model that nobody here serves."""


class ModelList:
    """Pools by the name of their model."""

    def __init__(self, pools: Mapping[str | None, Pool], config: ProxyConfig) -> None:
        self._pools = pools
        self._any = pools.get(None)
        self._timeout = aiohttp.ClientTimeout(total=config.health_timeout_s)

    def pool(self, model: object) -> Pool:
        """The pool of a model; where there is one for any, that.

        Raises:
            UnknownModelError: For a model that there is not.
        """
        pool = self._any or (self._pools.get(model) if isinstance(model, str) else None)
        if pool is None:
            there = ", ".join(f"`{name}`" for name in self._pools)
            raise UnknownModelError(f"the model {model!r:.60} does not exist, expected one of {there}")
        return pool

    def pool_of(self, raw: bytes) -> Pool:
        """The pool of the model that a body asks for; bodies are not read where there is one pool for any.

        Raises:
            IrouterError: For a body that is no JSON object; `UnknownModelError`.
        """
        if self._any is not None:
            return self._any
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise IrouterError(f"the body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise IrouterError(f"the body is a {type(body).__name__}, expected an object")
        return self.pool(body.get("model"))

    async def answer(self, request: web.Request, session: aiohttp.ClientSession) -> web.Response | None:
        """The list: that of an instance where there is one pool for any model, else one entry for each pool.

        Pools of which no instance answers are left out; None when none does.
        """
        answers = await asyncio.gather(*(self._ask(pool, request, session) for pool in self._pools.values()))
        if self._any is not None:
            return answers[0]
        cards = [
            _card(str(model), answer.body)
            for model, answer in zip(self._pools, answers, strict=True)
            if answer is not None
        ]
        return web.json_response({"object": "list", "data": cards}) if cards else None

    async def _ask(
        self, pool: Pool, request: web.Request, session: aiohttp.ClientSession
    ) -> web.Response | None:
        headers = pool.forwarder.headers(request.headers)
        for instance in pool.router.instances:
            if instance.status != "ready":
                continue
            try:
                async with session.get(
                    instance.url + "/v1/models", headers=headers, timeout=self._timeout, allow_redirects=False
                ) as answer:
                    return web.Response(
                        body=await answer.read(), status=answer.status, content_type=answer.content_type
                    )
            except (aiohttp.ClientError, TimeoutError):
                continue
        return None


def _card(model: str, body: Any) -> dict[str, Any]:
    """What an instance says of a model, or the least that can be said."""
    try:
        for card in json.loads(body)["data"]:
            if card["id"] == model:
                return dict(card)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return {"id": model, "object": "model", "created": 0, "owned_by": "irouter"}
