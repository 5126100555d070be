"""The proxy's own side: who may ask what, limits, and answers that are its own."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp import web

from irouter._core import IrouterError
from irouter.prediction import HistoryPredictor
from irouter.serving.errors import (
    ClosedError,
    DeadlineError,
    DisconnectedError,
    NoInstanceError,
    QueueFullError,
)
from irouter.serving.instances import LoadedProfile
from irouter.serving.openai import CHAT, COMPLETIONS, error_body, parse
from irouter.serving.predict import PREDICT, predict_route
from irouter.serving.proxy.forward import Errand, Forwarder
from irouter.serving.proxy.health import HealthKeeper
from irouter.serving.proxy.journal import LOGGER, note
from irouter.serving.proxy.keys import KeyRing
from irouter.serving.proxy.metrics import ProxyMetrics
from irouter.serving.proxy.routing import attended, make_router

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

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
# How a request that has no lease is answered.
_REFUSALS: Final[dict[type[Exception], tuple[int, str]]] = {
    QueueFullError: (429, "rate_limit_error"),
    NoInstanceError: (503, "overloaded_error"),
    ClosedError: (503, "overloaded_error"),
    DisconnectedError: (503, "overloaded_error"),
    DeadlineError: (504, "timeout_error"),
}


def make_app(
    config: ProxyConfig, *, predictor: Predictor | PredictorFront | None = None
) -> tuple[web.Application, Proxy]:
    """The web application and the proxy in it, which starts and stops with it.

    Args:
        config: What it does.
        predictor: Asked for output lengths; without it they are learned from requests that finish.
    """
    predictor = HistoryPredictor() if predictor is None else predictor
    proxy = Proxy(config, predictor)
    app = web.Application(client_max_size=config.max_body_bytes, middlewares=[proxy.admit])
    app.cleanup_ctx.append(proxy.lifetime)
    app.add_routes([web.post(path, proxy.generate) for path in (COMPLETIONS, CHAT)])
    app.add_routes([web.post(path, proxy.pass_through) for path in _PASSED_THROUGH])
    app.add_routes(
        [
            predict_route(predictor),
            web.get("/v1/models", proxy.models),
            web.get("/health", proxy.health),
            web.get("/metrics", proxy.page),
        ]
    )
    return app, proxy


class Proxy:
    """The handlers, and what they share."""

    def __init__(self, config: ProxyConfig, predictor: Predictor | PredictorFront) -> None:
        self._config = config
        self._keys = KeyRing(config.keys)
        self._active = 0
        self._draining = False
        self._quiet = asyncio.Event()
        self.router = make_router(config, predictor)
        profiles = [LoadedProfile(profile) for profile in {instance.profile for instance in config.instances}]
        self._most_tokens = min(min(profile.max_model_len, profile.kv_tokens) for profile in profiles)
        self._metrics = ProxyMetrics(self.router)

    async def lifetime(self, _app: web.Application) -> AsyncIterator[None]:
        """Opens what the handlers need, and closes it."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            self._session = session
            self._health = HealthKeeper(self.router, self._config, session)
            self._forwarder = Forwarder(self.router, self._config, session, self._health, self._metrics)
            with attended(self.router, self._config):
                yield
            await self._health.close()
        self.router.close()

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
                        "request", level=logging.INFO, endpoint=endpoint, code=code, seconds=round(seconds, 6)
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
        if request.path == "/health":
            return None
        tenant = self._keys.tenant(request.headers.get("Authorization"))
        if tenant is None:
            refused = _refusal(401, "the API key is missing or wrong", "authentication_error")
            refused.headers["WWW-Authenticate"] = "Bearer"
            return refused
        request[_TENANT] = tenant
        if self._draining:
            refused = _refusal(503, "the proxy is shutting down", "overloaded_error")
            refused.force_close()
            return refused
        return None

    # -------------------------------------------------------------------------------------------- handlers

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Completions and chats."""
        arrived_s = time.monotonic()
        raw = await _body(request)
        asked = parse(request.path, raw)
        prompt_bytes = len(asked.prompt.encode())
        ratio = self._forwarder.prompt_ratio
        counted = asked.token_count if asked.token_count is not None else ratio.tokens(prompt_bytes)
        # The counts are estimates: whether a request really is too long is for the engine to say.
        prompt_tokens = min(counted, self._most_tokens - 1)
        room = self._most_tokens - prompt_tokens
        max_tokens = room if asked.max_tokens is None else min(asked.max_tokens, room)
        fields = self._fields(request, prompt_tokens, max_tokens)
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
        return await self._forwarder.forward(request, errand)

    async def pass_through(self, request: web.Request) -> web.StreamResponse:
        """Endpoints whose bodies only an engine understands."""
        arrived_s = time.monotonic()
        raw = await _body(request)
        prompt_tokens = min(self._forwarder.prompt_ratio.tokens(len(raw)), self._most_tokens - 1)
        fields = self._fields(request, prompt_tokens, 1)
        errand = Errand(request.path, raw, fields, 1, 0, generates=False, streams=False, arrived_s=arrived_s)
        return await self._forwarder.forward(request, errand)

    async def models(self, request: web.Request) -> web.Response:
        """The models of the first instance that answers: all serve the same."""
        timeout = aiohttp.ClientTimeout(total=self._config.health_timeout_s)
        headers = self._forwarder.headers(request.headers)
        for instance in self.router.instances:
            if instance.status != "ready":
                continue
            try:
                async with self._session.get(
                    instance.url + "/v1/models", headers=headers, timeout=timeout
                ) as answer:
                    return web.Response(
                        body=await answer.read(), status=answer.status, content_type=answer.content_type
                    )
            except (aiohttp.ClientError, TimeoutError):
                continue
        return _refusal(503, "no instance answers", "overloaded_error")

    async def health(self, _request: web.Request) -> web.Response:
        """Whether requests can be served."""
        well = not self._draining and self._health.ready_beside(set()) > 0
        return web.Response(status=200 if well else 503)

    async def page(self, _request: web.Request) -> web.Response:
        """Metrics."""
        return web.Response(body=self._metrics.page(), headers={"content-type": "text/plain; version=0.0.4"})

    def _fields(self, request: web.Request, prompt_tokens: int, max_tokens: int) -> RequestFields:
        if self._health.ready_beside(set()) == 0:
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
