"""A proxy of one page: FastAPI and httpx around `irouter.Router`.

    pip install irouter-llm fastapi httpx uvicorn
    IROUTER_ENGINES=http://10.0.0.1:8000,http://10.0.0.2:8000 uvicorn fastapi_proxy:app

docs/fastapi.md goes through it.
"""

import contextlib
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

import irouter
from irouter.serving import DeadlineError, NoInstanceError, QueueFullError
from irouter.serving.openai import request_fields

STATUS: dict[type[Exception], int] = {QueueFullError: 429, NoInstanceError: 503, DeadlineError: 504}


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Opens the router and the client to the engines."""
    urls = os.environ["IROUTER_ENGINES"].split(",")
    profile = os.environ.get("IROUTER_PROFILE", "llama-3.1-8b@h100")
    timeout = httpx.Timeout(None, connect=5.0)
    limits = httpx.Limits(max_connections=None)
    with irouter.Router(urls, "ordered_hold", profile=profile) as router:
        async with httpx.AsyncClient(timeout=timeout, limits=limits) as client:
            app.state.router, app.state.client = router, client
            yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(irouter.IrouterError)
async def refuse(_request: Request, error: Exception) -> JSONResponse:
    """What the router refuses: too much, nobody there, too late, or a bad request."""
    return JSONResponse({"error": {"message": str(error)}}, STATUS.get(type(error), 400))


@app.post("/v1/completions")
@app.post("/v1/chat/completions")
async def generate(request: Request) -> Response:
    """Waits for a lease, and passes the answer on. Who leaves a stream ends the request at the engine."""
    router: irouter.Router = request.app.state.router
    client: httpx.AsyncClient = request.app.state.client
    body: dict[str, Any] = await request.json()
    async with contextlib.AsyncExitStack() as stack:
        lease = await stack.enter_async_context(router.acquire(**request_fields(body)))
        url = lease.url + request.url.path
        if not body.get("stream"):
            answer = await client.post(url, json=body)
            if answer.is_success:
                lease.finish(tokens=answer.json()["usage"]["completion_tokens"])
            return Response(answer.content, answer.status_code, media_type="application/json")
        streamed = await stack.enter_async_context(client.stream("POST", url, json=body))
        pieces = passed_on(streamed, lease)
        kind = streamed.headers["content-type"]
        return LeasedResponse(stack.pop_all(), pieces, streamed.status_code, media_type=kind)


async def passed_on(answer: httpx.Response, lease: irouter.Lease) -> AsyncIterator[bytes]:
    """The lines of a streamed answer, and what they say of its progress. Without its end the lease is cancelled."""
    with lease:
        tokens = 0
        async for line in answer.aiter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"]:
                tokens += 1
                lease.progress(tokens)
            yield line.encode() + b"\n"


class LeasedResponse(StreamingResponse):
    """A stream that closes what it needs, also when its client went away before it began."""

    def __init__(self, stack: contextlib.AsyncExitStack, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer."""
        async with self._stack:
            await super().__call__(scope, receive, send)
