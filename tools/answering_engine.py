"""An engine that does nothing but answer: `python tools/answering_engine.py PORT`.

Every completion takes 50 ms. A streamed one comes in 20 pieces of one token, evenly over that time.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Final

import uvloop
from aiohttp import web

RESPONSE_S: Final = 0.05
TOKENS: Final = 20
_USAGE: Final = {"prompt_tokens": 5, "completion_tokens": TOKENS, "total_tokens": 5 + TOKENS}
_NAMES: Final = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}


def _choice(text: str, finish: str | None) -> dict[str, object]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


_WHOLE: Final = json.dumps(
    _NAMES | {"choices": [_choice(" the" * TOKENS, "length")], "usage": _USAGE}
).encode()
_PIECE: Final = b"data: " + json.dumps(_NAMES | {"choices": [_choice(" the", None)]}).encode() + b"\n\n"
_LAST: Final = (
    b"data: "
    + json.dumps(_NAMES | {"choices": [_choice(" the", "length")]}).encode()
    + b"\n\ndata: [DONE]\n\n"
)


async def answer(request: web.Request) -> web.StreamResponse:
    """A completion."""
    if not json.loads(await request.read()).get("stream"):
        await asyncio.sleep(RESPONSE_S)
        return web.Response(body=_WHOLE, content_type="application/json")
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    loop = asyncio.get_running_loop()
    started = loop.time()
    for number in range(1, TOKENS + 1):
        await asyncio.sleep(started + RESPONSE_S * number / TOKENS - loop.time())
        if number == 1:
            await response.prepare(request)
        await response.write(_PIECE if number < TOKENS else _LAST)
    await response.write_eof()
    return response


async def models(_request: web.Request) -> web.Response:
    """The one model."""
    return web.json_response({"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "none"}]})


async def health(_request: web.Request) -> web.Response:
    """Always well."""
    return web.Response()


async def main(port: int) -> None:
    """Serves until it is ended."""
    app = web.Application()
    app.add_routes(
        [
            web.post("/v1/completions", answer),
            web.get("/v1/models", models),
            web.get("/health", health),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
