"""The OpenAI API of an emulated engine."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from irouter._core import IrouterError, text_blocks
from irouter.serving.emulator.answers import Answer
from irouter.serving.emulator.faults import Faults
from irouter.serving.emulator.metrics import EngineMetrics
from irouter.serving.emulator.realtime import RealTimeEngine
from irouter.serving.openai import CHAT, COMPLETIONS, ApiRequest, error_body, parse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from irouter.serving.emulator.lengths import Lengths
    from irouter.serving.emulator.realtime import Generation
    from irouter.serving.instances import LoadedProfile

_LARGEST_BODY_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class EmulatorSettings:
    """An emulated instance.

    Attributes:
        profile: What it is like.
        lengths: How long its answers are.
        model: The one model that it serves; None: any.
        speed: How many times as fast as the profile it runs.
        seed: Seed of noise and faults.
        step_noise: Sigma of the log-normal noise on step times.
        chunk_tokens: Tokens of a piece of a streamed answer.
        prompt_tokens_details: Whether the usage tells what the prefix cache gave.
        faults: What goes wrong from the start.
    """

    profile: LoadedProfile
    lengths: Lengths
    model: str | None = None
    speed: float = 1.0
    seed: int = 0
    step_noise: float = 0.0
    chunk_tokens: int = 1
    prompt_tokens_details: bool = False
    faults: Faults = dataclasses.field(default_factory=Faults)


def make_app(settings: EmulatorSettings) -> web.Application:
    """The web application; its engine starts with it."""
    app = web.Application(client_max_size=_LARGEST_BODY_BYTES, middlewares=[_errors])
    emulator = _Emulator(settings)
    app.on_startup.append(emulator.start)
    app.add_routes(
        [
            web.post(COMPLETIONS, emulator.generate),
            web.post(CHAT, emulator.generate),
            web.get("/v1/models", emulator.models),
            web.get("/health", emulator.health),
            web.get("/metrics", emulator.page),
            web.post("/faults", emulator.set_faults),
        ]
    )
    return app


@web.middleware
async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except IrouterError as error:
        return web.json_response(error_body(str(error)), status=400)
    return response


class _Emulator:
    def __init__(self, settings: EmulatorSettings) -> None:
        self._settings = settings
        self._faults = settings.faults
        self._draws = random.Random(settings.seed)  # noqa: S311 - seeded draws, not secrets
        self._requests = 0

    async def start(self, _app: web.Application) -> None:
        settings = self._settings
        self._engine = RealTimeEngine(
            settings.profile.text,
            speed=settings.speed / self._faults.slow_factor,
            seed=settings.seed,
            step_noise=settings.step_noise,
            chunk_tokens=settings.chunk_tokens,
        )
        self._metrics = EngineMetrics(self._engine, settings.profile, settings.model or settings.profile.name)

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def models(self, _request: web.Request) -> web.Response:
        name = self._settings.model or self._settings.profile.name
        card = {"id": name, "object": "model", "created": 0, "owned_by": "irouter"}
        card["max_model_len"] = self._settings.profile.max_model_len
        return web.json_response({"object": "list", "data": [card]})

    async def page(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.page(), headers={"content-type": "text/plain; version=0.0.4"})

    async def set_faults(self, request: web.Request) -> web.Response:
        try:
            data = json.loads(await request.read())
        except ValueError as error:
            raise IrouterError(f"the body is not JSON: {error}") from error
        self._faults, self._requests = Faults.from_data(data), 0
        self._engine.set_speed(self._settings.speed / self._faults.slow_factor)
        return web.json_response(dataclasses.asdict(self._faults))

    async def generate(self, request: web.Request) -> web.StreamResponse:
        self._requests += 1
        if self._requests == self._faults.crash_after:
            os.kill(os.getpid(), signal.SIGKILL)
        fault = self._faults.kind(self._draws.random())
        asked = parse(request.path, await request.read())
        if fault == "error":
            return web.json_response(error_body("injected", kind="internal_error", code=500), status=500)
        if fault == "garbage":
            return web.Response(body=b"\xff\xfe garbage", content_type="application/json")
        if fault == "hang":
            await asyncio.Event().wait()
        return await self._answer(request, asked, closes=fault == "close")

    async def _answer(self, request: web.Request, asked: ApiRequest, *, closes: bool) -> web.StreamResponse:
        settings = self._settings
        if settings.model is not None and asked.model != settings.model:
            message = f"The model `{asked.model}` does not exist."
            return web.json_response(error_body(message, kind="NotFoundError", code=404), status=404)
        if asked.body.get("n", 1) != 1:
            raise IrouterError(f"`n` is {asked.body['n']!r:.60}, expected 1")
        if asked.prompt_count != 1:
            raise IrouterError(f"`prompt` has {asked.prompt_count} prompts, expected 1")
        blocks, tokens = text_blocks(asked.prompt, settings.profile.block_tokens)
        prompt_tokens = tokens if asked.token_count is None else asked.token_count
        room = settings.profile.max_model_len - prompt_tokens
        most = room if asked.max_tokens is None else asked.max_tokens
        if not 1 <= most <= room:
            limit = settings.profile.max_model_len
            raise IrouterError(
                f"prompt of {prompt_tokens} and output of {most} tokens, expected at most {limit} in all"
            )
        wanted = most if asked.body.get("ignore_eos") else settings.lengths.output_tokens(asked.prompt)
        answer = Answer(
            request.path,
            asked,
            prompt_tokens=prompt_tokens,
            output_tokens=min(wanted, most),
            cut=wanted > most or bool(asked.body.get("ignore_eos")),
        )
        pieces = self._engine.generate(
            prompt_tokens=prompt_tokens, output_tokens=min(wanted, most), prompt_blocks=blocks or None
        )
        details = settings.prompt_tokens_details
        if asked.stream:
            return await self._stream(request, answer, pieces, prompt_tokens, details=details, closes=closes)
        cached_tokens = 0
        async with contextlib.aclosing(self._observed(pieces, prompt_tokens)) as observed:
            async for _, produced, generation in observed:
                cached_tokens = generation.cached_tokens
                if closes and 2 * produced >= generation.output_tokens:
                    _close(request)
        return web.Response(
            body=answer.whole(cached_tokens if details else None), content_type="application/json"
        )

    async def _stream(
        self,
        request: web.Request,
        answer: Answer,
        pieces: AsyncGenerator[tuple[int, Generation], None],
        prompt_tokens: int,
        *,
        details: bool,
        closes: bool,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        cached_tokens = 0
        async with contextlib.aclosing(self._observed(pieces, prompt_tokens)) as observed:
            async for before, produced, generation in observed:
                cached_tokens = generation.cached_tokens
                if before == 0:
                    await response.prepare(request)
                if closes and 2 * produced >= generation.output_tokens:
                    _close(request)
                await response.write(answer.piece(before, produced))
        await response.write(answer.last(cached_tokens if details else None))
        await response.write_eof()
        return response

    async def _observed(
        self, pieces: AsyncGenerator[tuple[int, Generation], None], prompt_tokens: int
    ) -> AsyncGenerator[tuple[int, int, Generation], None]:
        """Tokens before and after each piece, told to the metrics."""
        started, before = time.monotonic(), 0
        async with contextlib.aclosing(pieces):
            async for produced, generation in pieces:
                if before == 0:
                    self._metrics.prompt_tokens.inc(prompt_tokens)
                    self._metrics.first_token_s.observe(time.monotonic() - started)
                self._metrics.generation_tokens.inc(produced - before)
                yield before, produced, generation
                before = produced
        self._metrics.successes.inc()
        self._metrics.end_to_end_s.observe(time.monotonic() - started)


def _close(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("injected: the connection closes at half of the answer")
