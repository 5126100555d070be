"""The proxy's own side: who may ask what, limits, and answers that are its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp import web

from irouter._core import IrouterError
from irouter.serving.errors import (
    ClosedError,
    DeadlineError,
    DisconnectedError,
    NoInstanceError,
    QueueFullError,
)
from irouter.serving.openai import CHAT, COMPLETIONS, error_body, parse
from irouter.serving.predict import PREDICT, predict_route
from irouter.serving.proxy.addresses import Allowed, GuardedResolver
from irouter.serving.proxy.admin import AdminApi
from irouter.serving.proxy.dashboard import Dashboard
from irouter.serving.proxy.discovery import Discovery
from irouter.serving.proxy.door import Door
from irouter.serving.proxy.forward import Errand
from irouter.serving.proxy.journal import LOGGER, note
from irouter.serving.proxy.metrics import ProxyMetrics
from irouter.serving.proxy.models import ModelList, UnknownModelError
from irouter.serving.proxy.pool import Pool
from irouter.serving.proxy.routing import upstream_tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from irouter.serving.foresight import Predictor, PredictorFront
    from irouter.serving.proxy.config import ProxyConfig
    from irouter.serving.request import RequestFields

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PASSED_THROUGH: Final = ("/v1/embeddings", "/v1/responses", "/tokenize", "/detokenize")
_ENDPOINTS: Final = {CHAT, COMPLETIONS, *_PASSED_THROUGH, PREDICT, "/v1/models", "/health", "/metrics"}
_RETRY_AFTER_S: Final = 1
# A client that takes longer to send its request than this keeps a place for nothing.
_BODY_TIMEOUT_S: Final = 30.0
# Engines close idle connections after 5 s; one that is younger can be used without a race.
_KEEP_ALIVE_S: Final = 4.0
_CLIENT_CLOSED: Final = 499
_TENANT: Final = web.RequestKey("tenant", str)
# Of a W3C trace context, the trace.
_TRACE: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
# How a request that has no lease is answered.
_REFUSALS: Final[dict[type[Exception], tuple[int, str]]] = {
    QueueFullError: (429, "rate_limit_error"),
    NoInstanceError: (503, "overloaded_error"),
    ClosedError: (503, "overloaded_error"),
    DisconnectedError: (503, "overloaded_error"),
    DeadlineError: (504, "timeout_error"),
    UnknownModelError: (404, "NotFoundError"),
}


def make_app(
    config: ProxyConfig, *, predictors: Mapping[str, Predictor | PredictorFront] | None = None
) -> tuple[web.Application, Proxy]:
    """The web application and the proxy in it, which starts and stops with it.

    Args:
        config: What it does.
        predictors: The predictors that `config` names, by folder. Pools without one learn lengths from requests
            that finish.

    Raises:
        IrouterError: For a bad profile, policy, instance or certificate; `DisconnectedError` without the daemon.
    """
    proxy = Proxy(config, predictors or {})
    app = web.Application(client_max_size=config.max_body_bytes, middlewares=[proxy.admit])
    app.cleanup_ctx.append(proxy.lifetime)
    app.add_routes([web.post(path, proxy.generate) for path in (COMPLETIONS, CHAT)])
    app.add_routes([web.post(path, proxy.pass_through) for path in _PASSED_THROUGH])
    app.add_routes(
        [
            predict_route(lambda model: proxy.pool(model).predictor),
            web.get("/v1/models", proxy.models),
            web.get("/health", proxy.health),
            web.get("/metrics", proxy.page),
            *proxy.admin.routes,
            *proxy.dashboard.routes,
        ]
    )
    return app, proxy


class Proxy:
    """The handlers, and what they share.

    Attributes:
        pools: The pools by model; the one for any model is that of None.
    """

    def __init__(self, config: ProxyConfig, predictors: Mapping[str, Predictor | PredictorFront]) -> None:
        self._config = config
        self._door = Door(config)
        self._active = 0
        self._draining = False
        self._quiet = asyncio.Event()
        self._tls = upstream_tls(config)
        self.pools = {
            pool.model: Pool(pool, config, None if pool.predictor is None else predictors[pool.predictor])
            for pool in config.pools
        }
        self._models = ModelList(self.pools, config)
        self._metrics = ProxyMetrics({model: pool.router for model, pool in self.pools.items()})
        self._discovery = Discovery(self.pools, config)
        allowed = Allowed.parse(config.admin_allowed)
        self._resolver = GuardedResolver(allowed)
        self.admin = AdminApi(self.pools, self._discovery, allowed, self._resolver)
        self.dashboard = Dashboard(self.pools, config)

    async def lifetime(self, _app: web.Application) -> AsyncIterator[None]:
        """Opens what the handlers need, and closes it."""
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=_KEEP_ALIVE_S, ssl=self._tls or True, resolver=self._resolver
        )
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            self._session = session
            async with contextlib.AsyncExitStack() as stack:
                for pool in self.pools.values():
                    pool.start(session, self._metrics)
                    stack.push_async_callback(pool.close)
                await self._discovery.look(at_start=True)
                discovering = asyncio.create_task(self._discovery.run())
                self.dashboard.start()
                yield
                discovering.cancel()
                await asyncio.gather(discovering, return_exceptions=True)
                await self.dashboard.close()

    async def drain(self) -> None:
        """Refuses what comes, and waits for what is there."""
        self._draining = True
        note("draining", level=logging.INFO, active=self._active)
        if self._active:
            try:
                await asyncio.wait_for(self._quiet.wait(), self._config.drain_s)
            except TimeoutError:
                note("drain_timeout", active=self._active)

    # ------------------------------------------------------------------------------------------- admission

    @property
    def admit(self) -> Any:
        """The middleware that admits requests and makes every refusal one of the API."""

        @web.middleware
        async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
            started = time.monotonic()
            endpoint = request.path if request.path in _ENDPOINTS else "other"
            code = _CLIENT_CLOSED
            self._active += 1
            try:
                response = await self._answer(request, handler)
                code = response.status
            finally:
                self._active -= 1
                if self._draining and not self._active:
                    self._quiet.set()
                seconds = time.monotonic() - started
                self._metrics.answered(endpoint, code)
                if request.method == "POST" and request.path != PREDICT:
                    self._metrics.end_to_end_s.observe(seconds)
                if self._config.log_requests:
                    note(
                        "request",
                        level=logging.INFO,
                        endpoint=endpoint,
                        code=code,
                        seconds=round(seconds, 6),
                        **_trace(request),
                    )
            return response

        return admit

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return self._at_the_door(request) or await handler(request)
        except (IrouterError, web.HTTPException, TimeoutError) as error:
            return _refusal_of(error)
        except Exception:  # noqa: BLE001 - whatever it is, the client gets an answer and the log the reason
            LOGGER.exception("internal_error")
            return _refusal(500, "internal error", "internal_error")

    def _at_the_door(self, request: web.Request) -> web.Response | None:
        tenant, refused = self._door.ask(request)
        if refused is not None:
            return refused
        if tenant is None:
            return None
        request[_TENANT] = tenant
        if self._draining:
            refused = _refusal(503, "the proxy is shutting down", "overloaded_error")
            refused.force_close()
        return refused

    # -------------------------------------------------------------------------------------------- handlers

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Completions and chats."""
        arrived_s = time.monotonic()
        raw = await _body(request)
        asked = parse(request.path, raw)
        pool = self._models.pool(asked.model)
        prompt_bytes = len(asked.prompt.encode())
        ratio = pool.forwarder.prompt_ratio
        counted = asked.token_count if asked.token_count is not None else ratio.tokens(prompt_bytes)
        # The counts are estimates: whether a request really is too long is for the engine to say.
        most_tokens = pool.most_tokens
        prompt_tokens = min(counted, most_tokens - 1)
        room = most_tokens - prompt_tokens
        max_tokens = room if asked.max_tokens is None else min(asked.max_tokens, room)
        fields = self._fields(pool, request, prompt_tokens, max_tokens)
        if asked.prompt:
            fields["prompt"] = asked.prompt
        errand = Errand(
            request.path,
            raw,
            fields,
            max_tokens,
            prompt_bytes,
            generates=True,
            streams=asked.stream,
            arrived_s=arrived_s,
        )
        return await pool.forwarder.forward(request, errand)

    async def pass_through(self, request: web.Request) -> web.StreamResponse:
        """Endpoints whose bodies only an engine understands."""
        arrived_s = time.monotonic()
        raw = await _body(request)
        pool = self._models.pool_of(raw)
        prompt_tokens = min(pool.forwarder.prompt_ratio.tokens(len(raw)), pool.most_tokens - 1)
        fields = self._fields(pool, request, prompt_tokens, 1)
        errand = Errand(request.path, raw, fields, 1, 0, generates=False, streams=False, arrived_s=arrived_s)
        return await pool.forwarder.forward(request, errand)

    async def models(self, request: web.Request) -> web.Response:
        """The models that can be asked for."""
        answer = await self._models.answer(request, self._session)
        return answer or _refusal(503, "no instance answers", "overloaded_error")

    async def health(self, _request: web.Request) -> web.Response:
        """Whether requests can be served, of one model at least."""
        well = not self._draining and any(pool.is_well for pool in self.pools.values())
        return web.Response(status=200 if well else 503)

    def pool(self, model: object) -> Pool:
        """The pool of a model.

        Raises:
            UnknownModelError: For a model that there is not.
        """
        return self._models.pool(model)

    async def page(self, _request: web.Request) -> web.Response:
        """Metrics."""
        return web.Response(body=self._metrics.page(), headers={"content-type": "text/plain; version=0.0.4"})

    def _fields(self, pool: Pool, request: web.Request, prompt_tokens: int, max_tokens: int) -> RequestFields:
        if not pool.is_well:
            raise NoInstanceError("no instance is well")
        fields: RequestFields = {
            "prompt_tokens": prompt_tokens,
            "max_tokens": max_tokens,
            "tenant": request[_TENANT],
            "priority": _header(request, "x-irouter-priority", int, -(1 << 31), (1 << 31) - 1) or 0,
            "deadline_s": _header(request, "x-irouter-deadline-s", float, 1e-3, 1e6)
            or self._config.queue_timeout_s,
            "session": request.headers.get("x-irouter-session"),
        }
        predicted = _header(request, "x-irouter-predicted-tokens", int, 1, 1 << 31)
        if predicted is not None:
            fields["predicted_tokens"] = min(int(predicted), max_tokens)
        return fields


def _trace(request: web.Request) -> dict[str, str]:
    """The trace that a client says its request belongs to."""
    found = _TRACE.fullmatch(request.headers.get("traceparent", ""))
    return {} if found is None else {"trace": found[1]}


def _refusal_of(error: Exception) -> web.Response:
    if isinstance(error, web.HTTPException):
        return _refusal(error.status, error.reason, "invalid_request_error")
    if isinstance(error, TimeoutError):
        return _refusal(408, "the body did not come in time", "timeout_error")
    status, kind = _REFUSALS.get(type(error), (400, "invalid_request_error"))
    return _refusal(status, str(error), kind)


def _refusal(status: int, message: str, kind: str) -> web.Response:
    response = web.json_response(error_body(message, kind=kind, code=status), status=status)
    if status in {429, 503}:
        response.headers["Retry-After"] = str(_RETRY_AFTER_S)
    return response


async def _body(request: web.Request) -> bytes:
    async with asyncio.timeout(_BODY_TIMEOUT_S):
        return await request.read()


def _header(request: web.Request, name: str, kind: type, least: float, most: float) -> Any:
    text = request.headers.get(name)
    if text is None:
        return None
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not least <= value <= most:
        raise IrouterError(f"header {name} is {text!r:.60}, expected a number from {least:g} to {most:g}")
    return value
