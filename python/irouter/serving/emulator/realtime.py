"""The engine model, let run at the pace of the clock."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

from irouter._core import Engine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@dataclasses.dataclass(slots=True)
class Generation:
    """A request in the engine.

    Attributes:
        output_tokens: Tokens that it will produce.
        cached_tokens: Prompt tokens that came from the prefix cache; known from the first token on.
        slot: Its place in the engine; None when it has left.
        told: How many tokens it has produced, in the order in which they came.
    """

    output_tokens: int
    slot: int | None
    cached_tokens: int = 0
    told: asyncio.Queue[int] = dataclasses.field(default_factory=asyncio.Queue)


class RealTimeEngine:
    """An engine whose time is that of the event loop, `speed` times as fast.

    It sleeps until the next time at which something can happen, however many requests it has.
    """

    def __init__(
        self, profile_json: str, *, speed: float, seed: int, step_noise: float, chunk_tokens: int
    ) -> None:
        self._engine = Engine(profile_json, seed=seed, step_noise=step_noise, progress_tokens=chunk_tokens)
        self._loop = asyncio.get_running_loop()
        self._speed = speed
        # Engine time is `_engine_s` at `_real_s` of the loop; both move when the speed changes.
        self._engine_s, self._real_s = 0.0, self._loop.time()
        self._generations: dict[int, Generation] = {}
        self._tags = 0
        self._timer: asyncio.TimerHandle | None = None
        self.preemptions = 0

    def _now(self) -> float:
        return self._engine_s + (self._loop.time() - self._real_s) * self._speed

    def set_speed(self, speed: float) -> None:
        """Runs so many times as fast as the profile from now on."""
        self._advance()
        self._engine_s, self._real_s, self._speed = self._now(), self._loop.time(), speed
        self._sleep()

    async def generate(
        self, *, prompt_tokens: int, output_tokens: int, prompt_blocks: list[int] | None
    ) -> AsyncGenerator[tuple[int, Generation], None]:
        """Runs a request and gives how many tokens it has produced, whenever that changes.

        Closing it cancels the request.

        Raises:
            IrouterError: For a request that can never run here.
        """
        tag = self._tags
        self._tags += 1
        self._advance()
        slot = self._engine.submit(
            tag,
            now_s=self._now(),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            prompt_blocks=prompt_blocks,
        )
        generation = self._generations[tag] = Generation(output_tokens, slot)
        self._sleep()
        try:
            produced = 0
            while produced < output_tokens:
                produced = await generation.told.get()
                yield produced, generation
        finally:
            self._generations.pop(tag, None)
            if generation.slot is not None:
                self._advance()
            # It may have finished just now.
            if generation.slot is not None:
                self._engine.cancel(generation.slot, now_s=self._now())
                self._sleep()

    @property
    def load(self) -> dict[str, Any]:
        """What the engine holds: `waiting`, `running`, `queued_prefill_tokens`, `kv_usage`."""
        self._advance()
        return self._engine.load

    def _advance(self) -> None:
        for kind, tag, _, tokens in self._engine.advance(self._now()):
            generation = self._generations.get(tag)
            if kind == "preempted":
                self.preemptions += 1
            elif generation is None:
                continue
            elif kind == "admitted":
                generation.cached_tokens = generation.cached_tokens or tokens
            elif kind in {"first_token", "progress"}:
                generation.told.put_nowait(tokens)
            elif kind == "finished":
                generation.slot = None
                generation.told.put_nowait(generation.output_tokens)

    def _sleep(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        event_s = self._engine.next_event_s()
        if event_s is not None:
            at = self._real_s + (event_s - self._engine_s) / self._speed
            self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._advance()
        self._sleep()
