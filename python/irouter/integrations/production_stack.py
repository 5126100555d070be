"""A routing logic for the router of vLLM's production stack, by the shape of its classes.

Its package is not on PyPI, so that this is tested with stand-ins of that shape, not with itself.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

from irouter._core import IrouterError
from irouter.serving.errors import NoInstanceError
from irouter.serving.openai import request_fields
from irouter.serving.proxy.tokens import StreamCounter, TokenRatio, whole_number

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from irouter.serving.base_router import BaseRouter
    from irouter.serving.lease import Lease

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

_LEASE: Final = "irouter_lease"
# An answer in one piece that is longer is passed on, but its usage is not read.
_LONGEST_BODY_BYTES: Final = 16 << 20


class IrouterRouting:
    """Lets `irouter.Router` choose among the endpoints that the stack finds healthy for a model.

    To be mixed into the stack's `SessionRouter`, whose kind is asked with the body and may wait. The lease is in the
    state of the request, from where `LeaseMiddleware` ends it.
    """

    def __init__(self, router: BaseRouter, session_key: str | None = None) -> None:
        """`session_key` names the header, or the field of the body, that holds requests together."""
        self.router = router
        self.session_key = session_key

    async def route_request(
        self,
        endpoints: list[Any],
        engine_stats: dict[str, Any],  # noqa: ARG002 - the stack's signature
        request_stats: dict[str, Any],  # noqa: ARG002 - as above
        request: Any,
        request_json: dict[str, Any],
    ) -> str:
        """The URL of the endpoint that the request has a lease on.

        Raises:
            NoInstanceError: When no endpoint can take it.
            IrouterError: For a body that is no request.
        """
        urls = {endpoint.url for endpoint in endpoints}
        known = {entry.url for entry in self.router.instances if entry.status != "gone"}
        for url in sorted(urls - known):
            self.router.add_instance(url)
        fields = request_fields(request_json)
        session = self.extract_session_id(request, request_json)
        if session is not None:
            fields["session"] = session
        lease = await self.router.acquire(exclude=sorted(known - urls), **fields).__aenter__()
        if lease.url not in urls:
            lease.cancel()
            raise NoInstanceError(f"instance {lease.url} went while the request waited")
        setattr(request.state, _LEASE, lease)
        return lease.url

    def extract_session_id(self, request: Any, request_json: dict[str, Any]) -> str | None:
        """The session of a request, where the stack was told how to find it."""
        if self.session_key is None:
            return None
        found = request.headers.get(self.session_key, request_json.get(self.session_key))
        return None if found is None else str(found)


class LeaseMiddleware:
    """ASGI middleware that tells a lease of its answer: tokens as they are streamed, usage, the end.

    It is finished with the answer, failed by status 500 or above and by exceptions, and cancelled when the client
    goes away before.
    """

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._ratio = TokenRatio()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        answer = _Answer(self._ratio)

        async def tell(message: Message) -> None:
            await send(message)
            answer.take_in(message, state.get(_LEASE))

        try:
            await self._app(scope, receive, tell)
        except Exception as error:
            if (lease := state.get(_LEASE)) is not None:
                lease.fail(type(error).__name__)
            raise
        finally:
            if (lease := state.get(_LEASE)) is not None:
                answer.end(lease)


class _Answer:
    def __init__(self, ratio: TokenRatio) -> None:
        self._counter = StreamCounter(ratio)
        self._status, self._streams, self._complete = 0, False, False
        self._body = b""

    def take_in(self, message: Message, lease: Lease | None) -> None:
        """A part of the answer was sent."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            kinds = (value for name, value in message["headers"] if name.lower() == b"content-type")
            self._streams = next(kinds, b"").startswith(b"text/event-stream")
            return
        chunk = message.get("body", b"")
        if self._streams:
            self._counter.feed(chunk)
            if lease is not None and self._counter.tokens:
                with contextlib.suppress(IrouterError):  # more than was asked for is an estimate gone wrong
                    lease.progress(self._counter.tokens)
        elif len(self._body) <= _LONGEST_BODY_BYTES:
            self._body += chunk
        self._complete = not message.get("more_body", False)

    def end(self, lease: Lease) -> None:
        """Nothing more will come; a lease that has ended stays as it is."""
        if not self._complete:
            lease.cancel()
        elif self._status >= 500:  # noqa: PLR2004 - an error of the server
            lease.fail(f"status {self._status}")
        else:
            told = whole_number(self._usage(), "completion_tokens")
            lease.finish(tokens=told or self._counter.tokens or None)

    def _usage(self) -> dict[str, Any] | None:
        if self._streams:
            return self._counter.usage
        with contextlib.suppress(ValueError, RecursionError):
            data = json.loads(self._body)
            if isinstance(data, dict) and isinstance(data.get("usage"), dict):
                return dict(data["usage"])
        return None
