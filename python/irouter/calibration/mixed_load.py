"""A load of all kinds of requests, and what a profile says of it: how a fit is judged."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter._core import Engine
from irouter.calibration.live_endpoint import TimedAnswer, now

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from irouter.calibration.live_endpoint import Endpoint
    from irouter.calibration.probes import EngineLimits, Prompts

_MOST_CLIENTS: Final = 16
_LONGEST_PROMPT: Final = 1024
_LONGEST_OUTPUT: Final = 256
# Requests that a client should have time for, one after the other.
_TURNS: Final = 4
# More tokens than any request has: only first and last ones are told.
_NO_PROGRESS: Final = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class LoadRequest:
    """A request as measured. Times in seconds from the start of the load, at the engine."""

    arrival_s: float
    first_token_s: float
    last_token_s: float
    prompt_tokens: int
    output_tokens: int


async def run_mixed_load(
    endpoint: Endpoint,
    prompts: Prompts,
    limits: EngineLimits,
    generator: random.Random,
    *,
    seconds: float,
    step_s: float,
    round_trip_s: float,
) -> list[LoadRequest]:
    """Clients that send one request after another, of log-uniform sizes, for so many seconds.

    They are as many as half of the batch, so that batches of all sizes occur and the load suits any engine.

    Args:
        endpoint: Where to.
        prompts: Where prompts come from.
        limits: What the engine has room for.
        generator: Draws sizes.
        seconds: How long requests are sent; those under way end after it.
        step_s: Time of a step of a full batch, by which outputs are short enough.
        round_trip_s: What the connection adds to each request.

    Raises:
        IrouterError: When a request fails.
    """
    started = now()
    clients = max(1, min(_MOST_CLIENTS, limits.sequences // 2))
    room = limits.room_of(clients)
    longest_output = int(max(8, min(_LONGEST_OUTPUT, room / 2, seconds / _TURNS / step_s)))
    longest_prompt = max(16, min(_LONGEST_PROMPT, limits.step_tokens, room - longest_output))
    requests: list[LoadRequest] = []

    async def client() -> None:
        while now() < started + seconds:
            output_tokens = _log_uniform(generator, 2, longest_output)
            answer = TimedAnswer(now())
            await endpoint.complete(
                answer, prompts.of(_log_uniform(generator, 16, longest_prompt)), output_tokens
            )
            sent_s, first_s, last_s = (
                at - started for at in (answer.sent_s, answer.token_s[0], answer.token_s[-1])
            )
            requests.append(
                LoadRequest(
                    sent_s, first_s - round_trip_s, last_s - round_trip_s, answer.prompt_tokens, output_tokens
                )
            )

    await asyncio.gather(*(client() for _ in range(clients)))
    return sorted(requests, key=lambda request: request.arrival_s)


def replay(
    requests: Sequence[LoadRequest], profile: Mapping[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """When first and last tokens would come from the engine that a profile describes, in seconds.

    Args:
        requests: The load, in order of arrival.
        profile: The profile.
    """
    engine = Engine(json.dumps(profile), progress_tokens=_NO_PROGRESS)
    first, last = np.full(len(requests), math.nan), np.full(len(requests), math.nan)

    def note(events: list[tuple[str, int, float, int]]) -> None:
        for kind, tag, at_s, _ in events:
            if kind == "first_token":
                first[tag] = at_s
            elif kind == "finished":
                last[tag] = at_s

    for tag, request in enumerate(requests):
        note(engine.advance(request.arrival_s))
        engine.submit(
            tag,
            now_s=request.arrival_s,
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens,
        )
    while (at_s := engine.next_event_s()) is not None:
        note(engine.advance(at_s))
    return first, last


def _log_uniform(generator: random.Random, low: int, high: int) -> int:
    return round(low * math.exp(generator.random() * math.log(high / low)))
