"""One request through the proxy: a lease, an engine, the answer; another engine when one fails in time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import time
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp import web

from irouter.serving.errors import NoInstanceError
from irouter.serving.openai import error_body
from irouter.serving.proxy.journal import note
from irouter.serving.proxy.tokens import StreamCounter, TokenRatio, whole_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from irouter.serving.base_router import BaseRouter
    from irouter.serving.lease import Lease
    from irouter.serving.proxy.config import ProxyConfig
    from irouter.serving.proxy.health import HealthKeeper
    from irouter.serving.proxy.metrics import PoolMetrics
    from irouter.serving.request import RequestFields

# Statuses with which an engine says that it cannot serve now, not that the request is wrong.
_ENGINE_TROUBLE: Final = {500, 502, 503, 504}
# Of one hop, or set anew for the next.
_NOT_PASSED_ON: Final = {
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "date",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Errand:
    """What is to be forwarded.

    Attributes:
        path: Where to, below the URL of the instance.
        raw: The body, as it came.
        fields: What the router is told of it.
        max_tokens: Most tokens that the router was told.
        prompt_bytes: Bytes of the prompt's text.
        generates: Whether the answer is that of a model, with tokens and usage.
        streams: Whether the answer was asked for in pieces.
        arrived_s: When it came.
    """

    path: str
    raw: bytes
    fields: RequestFields
    max_tokens: int
    prompt_bytes: int
    generates: bool
    streams: bool
    arrived_s: float


class EngineError(Exception):
    """An engine failed a request.

    Attributes:
        reason: In a few words.
        url: Which engine.
        sent: Whether bytes of its answer had come, so that nobody else may be asked.
    """

    def __init__(self, reason: str, url: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.url = url
        self.sent = sent


class Forwarder:
    """Sends requests to engines and answers to clients, byte for byte."""

    def __init__(
        self,
        router: BaseRouter,
        config: ProxyConfig,
        session: aiohttp.ClientSession,
        health: HealthKeeper,
        metrics: PoolMetrics,
    ) -> None:
        self._router = router
        self._config = config
        self._session = session
        self._health = health
        self._metrics = metrics
        self.prompt_ratio = TokenRatio()
        self._output_ratio = TokenRatio()

    async def forward(self, request: web.Request, errand: Errand) -> web.StreamResponse:
        """The answer of an engine. A request is sent again, elsewhere, only while no byte of an answer has come.

        Raises:
            IrouterError: When the router has no lease for it.
        """
        failed: list[str] = []
        last: EngineError | None = None
        for left in range(self._config.retries, -1, -1):
            try:
                async with self._router.acquire(exclude=failed, **errand.fields) as lease:
                    self._metrics.decided(lease)
                    others = left > 0 and self._health.ready_beside({*failed, lease.url}) > 0
                    return await self._attempt(request, errand, lease, others=others)
            except EngineError as error:
                last = error
                self._health.failed(error.url, error.reason)
                note(
                    "engine_failed",
                    instance=error.url,
                    reason=error.reason,
                    sent=error.sent,
                    retries_left=left,
                )
                if error.sent:
                    break
                failed.append(error.url)
            except NoInstanceError:
                if last is None:
                    raise
                break
            if left:
                self._metrics.retries.inc()
                # Jitter, so that what failed together does not come back together.
                await asyncio.sleep(random.uniform(0, 2 * self._config.retry_delay_s))  # noqa: S311 - no secret
        message = "the engine failed" if last is None else f"the engine failed: {last.reason}"
        return web.json_response(error_body(message, kind="engine_error", code=502), status=502)

    async def _attempt(
        self, request: web.Request, errand: Errand, lease: Lease, *, others: bool
    ) -> web.StreamResponse:
        url = lease.url
        timeout = aiohttp.ClientTimeout(
            total=self._config.request_timeout_s,
            sock_connect=self._config.connect_timeout_s,
            sock_read=self._config.read_timeout_s if errand.streams else None,
        )
        try:
            answer = await self._session.post(
                url + errand.path,
                data=errand.raw,
                headers=self.headers(request.headers),
                timeout=timeout,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._failure(lease, _reason(error), sent=False) from error
        async with answer:
            if answer.status in _ENGINE_TROUBLE and others:
                raise self._failure(lease, f"status {answer.status}", sent=False)
            if answer.content_type == "text/event-stream":
                return await self._stream(request, errand, lease, answer)
            return await self._whole(errand, lease, answer)

    async def _whole(self, errand: Errand, lease: Lease, answer: aiohttp.ClientResponse) -> web.Response:
        try:
            body = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._failure(lease, _reason(error), sent=True) from error
        if answer.status in _ENGINE_TROUBLE:
            lease.fail(f"status {answer.status}")
            self._health.failed(lease.url, f"status {answer.status}")
        elif answer.ok and errand.generates:
            try:
                data = json.loads(body)
            except (ValueError, RecursionError) as error:
                raise self._failure(lease, "its answer is not JSON", sent=True) from error
            usage = data.get("usage") if isinstance(data, dict) else None
            self._finish(
                errand,
                lease,
                usage if isinstance(usage, dict) else None,
                counted=0,
                text_bytes=_text_bytes(data),
            )
        else:
            # The engine is well: it was the request that it did not like, or an answer without tokens.
            self._health.worked(lease.url)
            lease.finish()
        return web.Response(body=body, status=answer.status, headers=_passed_on(answer.headers))

    async def _stream(
        self, request: web.Request, errand: Errand, lease: Lease, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
        with _client_may_leave():
            await response.prepare(request)
        counter = StreamCounter(self._output_ratio)
        first_s = last_s = 0.0
        try:
            async for chunk in answer.content.iter_any():
                await _write(response, chunk)
                counter.feed(chunk)
                tokens = counter.tokens
                if tokens:
                    last_s = time.monotonic()
                    first_s = first_s or last_s
                    lease.progress(min(tokens, errand.max_tokens))
        except (aiohttp.ClientError, TimeoutError) as error:
            failure = self._failure(lease, _reason(error), sent=True)
            self._health.failed(lease.url, failure.reason)
            note("engine_failed", instance=lease.url, reason=failure.reason, sent=True, retries_left=0)
            await _break_off(request, response, failure)
            return response
        if first_s:
            self._metrics.first_token_s.observe(first_s - errand.arrived_s)
            if counter.tokens > 1:
                self._metrics.token_gap_s.observe((last_s - first_s) / (counter.tokens - 1))
        if counter.done or not errand.generates:
            self._finish(errand, lease, counter.usage, counted=counter.tokens, text_bytes=counter.text_bytes)
        else:
            lease.fail("the stream ended before its end")
            self._health.failed(lease.url, "the stream ended before its end")
        with _client_may_leave():
            await response.write_eof()
        return response

    def _finish(
        self, errand: Errand, lease: Lease, usage: dict[str, Any] | None, *, counted: int, text_bytes: int
    ) -> None:
        """Ends a lease with the tokens that the engine tells, else those that were counted, and learns from them."""
        self._health.worked(lease.url)
        prompt_tokens = whole_number(usage, "prompt_tokens")
        if prompt_tokens is not None:
            self._metrics.prompt_tokens.inc(prompt_tokens)
            self.prompt_ratio.learn(errand.prompt_bytes, prompt_tokens)
        told = whole_number(usage, "completion_tokens")
        if told is not None:
            self._output_ratio.learn(text_bytes, told)
        tokens = counted if told is None else told
        self._metrics.output_tokens.inc(tokens)
        lease.finish(tokens=tokens or None)

    def _failure(self, lease: Lease, reason: str, *, sent: bool) -> EngineError:
        lease.fail(reason)
        return EngineError(reason, lease.url, sent=sent)

    def headers(self, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        """Headers of a client as engines get them: without its key, where that is for the proxy."""
        passed = [
            (name, value)
            for name, value in headers.items()
            if (lower := name.lower()) not in _NOT_PASSED_ON
            and not lower.startswith("x-irouter-")
            and not (lower == "authorization" and (self._config.keys or self._config.upstream_key))
        ]
        # Counting tokens needs the text as it is.
        passed.append(("Accept-Encoding", "identity"))
        if self._config.upstream_key is not None:
            passed.append(("Authorization", f"Bearer {self._config.upstream_key}"))
        return passed


def _passed_on(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.lower() not in _NOT_PASSED_ON]


def _reason(error: Exception) -> str:
    return "timeout" if isinstance(error, TimeoutError) else type(error).__name__


def _text_bytes(data: Any) -> int:
    """Bytes of the text of an answer in one piece."""
    try:
        choices = data["choices"]
        texts = [
            choice.get("text") or (choice.get("message") or {}).get("content") or "" for choice in choices
        ]
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    except (AttributeError, KeyError, TypeError):
        return 0


async def _break_off(request: web.Request, response: web.StreamResponse, failure: EngineError) -> None:
    """Tells a client in the midst of a stream that it breaks off, and makes sure that it sees no proper end."""
    event = json.dumps(error_body(f"the engine failed: {failure.reason}", kind="engine_error", code=502))
    await _write(response, b"data: " + event.encode() + b"\n\n")
    if request.transport is not None:
        request.transport.close()


async def _write(response: web.StreamResponse, chunk: bytes) -> None:
    with _client_may_leave():
        await response.write(chunk)


@contextlib.contextmanager
def _client_may_leave() -> Iterator[None]:
    try:
        yield
    except ConnectionError:
        # The client is gone. What is cancelled then is its lease, and with it the request at the engine.
        raise asyncio.CancelledError from None
