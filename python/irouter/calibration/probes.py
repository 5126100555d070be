"""Probes of a live engine: requests shaped so that the time of one step shows."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from typing import TYPE_CHECKING, Final

from irouter._core import IrouterError
from irouter.calibration.held_streams import WINDOW_STEPS, HeldStreams, MeasuredStep
from irouter.calibration.live_endpoint import TimedAnswer, now

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Sequence

    from irouter.calibration.live_endpoint import Endpoint

_SMALLEST_PROMPT: Final = 16
_LONGEST_CONTEXT: Final = 2048
# Share of a limit that is used: prompts come out a little longer or shorter than they were meant to be.
_ROOM: Final = 0.85
_MARGIN_TOKENS: Final = 16
_SHORT_CONTEXT: Final = 32
# Steps of a batch that are worth the time to fill it.
_FEWEST_STEPS: Final = 16 * WINDOW_STEPS
_LEAST_FILL_S: Final = 30.0
# Between probes, until an engine has noticed that the requests before are gone.
_SETTLE_S: Final = 0.25
_WORDS: Final = "the and for you are but not all can had one our out day get has him how man new now old see"


@dataclasses.dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine has room for.

    Attributes:
        sequences: Most sequences in a step.
        step_tokens: Most tokens in a step.
        model_tokens: Most tokens of prompt and output together.
        kv_tokens: Tokens that the KV cache holds.
        mixes: Whether a step may have prefill and decodes.
    """

    sequences: int
    step_tokens: int
    model_tokens: int
    kv_tokens: int
    mixes: bool

    def room_of(self, batch: int) -> int:
        """Tokens that each of `batch` sequences may hold."""
        return min(self.model_tokens - _MARGIN_TOKENS, int(_ROOM * self.kv_tokens) // batch)


class Prompts:
    """Prompts of about a wanted size. Each begins as no other does, so that no prefix cache has any of it."""

    def __init__(self, generator: random.Random) -> None:
        self._generator, self._words = generator, _WORDS.split()
        self._tokens_per_word, self._tokens_before = 1.0, 16.0

    def of(self, tokens: int) -> str:
        """A prompt of about so many tokens."""
        return self._of_words(max(1, round((tokens - self._tokens_before) / self._tokens_per_word)))

    async def learn(self, endpoint: Endpoint) -> None:
        """Measures what the engine's tokenizer makes of words."""
        few, many = 8, 136
        counts = []
        for words in (few, many):
            answer = TimedAnswer(now())
            await endpoint.complete(answer, self._of_words(words), 4)
            counts.append(answer.prompt_tokens)
        self._tokens_per_word = max((counts[1] - counts[0]) / (many - few), 0.1)
        self._tokens_before = counts[0] - few * self._tokens_per_word

    def _of_words(self, words: int) -> str:
        return f"{self._generator.getrandbits(48):012x} " + " ".join(
            self._generator.choices(self._words, k=words)
        )


class Prober:
    """Takes steps of an engine that nobody else uses.

    Args:
        endpoint: The engine's endpoint.
        limits: What it has room for.
        prompts: Where prompts come from.
        round_trip_s: What the connection adds to the time to the first token.
    """

    def __init__(
        self, endpoint: Endpoint, limits: EngineLimits, prompts: Prompts, round_trip_s: float
    ) -> None:
        self._endpoint, self._limits, self._prompts = endpoint, limits, prompts
        self._round_trip_s = round_trip_s
        self._prefill_token_s = 0.0

    async def prefills(self, seconds: float) -> list[MeasuredStep]:
        """Prompts alone in the engine, each a step of its own, with one token of output."""
        deadline = now() + seconds
        longest = int(_ROOM * min(self._limits.step_tokens, self._limits.room_of(1)))
        sizes = geometric(_SMALLEST_PROMPT, longest, 14)
        steps: list[MeasuredStep] = []
        while sizes and now() < deadline:
            for size in sizes:
                answer = await self._alone(size)
                step_s = answer.token_s[0] - answer.sent_s - self._round_trip_s
                tokens = answer.prompt_tokens
                if tokens <= self._limits.step_tokens and step_s > 0:
                    steps.append(MeasuredStep(1, tokens, tokens * tokens, 0, 0, 1e3 * step_s))
                if step_s > seconds / 10:
                    # This size and those above would take all the time that there is.
                    sizes = [smaller for smaller in sizes if smaller < size]
                    break
                if now() > deadline:
                    break
        if steps:
            largest = max(steps, key=lambda step: step.prefill_tokens)
            self._prefill_token_s = 1e-3 * largest.duration_ms / largest.prefill_tokens
        return steps

    async def decodes(self, seconds: float) -> list[MeasuredStep]:
        """Streams held together: batches from one to as many as there is room for, with short and long contexts."""
        steps: list[MeasuredStep] = []
        batches = geometric(1, self._most_held(_SHORT_CONTEXT), 9)
        for batch in batches:
            contexts = self._contexts(batch, seconds / len(batches))
            for context in contexts:
                visit_s = seconds / len(batches) / len(contexts)
                started = now()
                async with self._held(batch, context, visit_s) as held:
                    filled_s = now() - started
                    await asyncio.sleep(max(visit_s - filled_s, visit_s / 3))
                steps += held.decode_steps()
        return steps

    async def mixed_steps(self, seconds: float) -> list[MeasuredStep]:
        """Prompts that meet streams held together; none where the engine never mixes them."""
        if not self._limits.mixes or self._limits.sequences == 1:
            return []
        steps: list[MeasuredStep] = []
        most = min(self._limits.sequences - 1, self._most_held(_SHORT_CONTEXT))
        batches = sorted({max(1, most // 8), max(1, most // 2)})
        for batch in batches:
            visit_s = seconds / len(batches)
            longest = self._affordable(int(_ROOM * self._limits.step_tokens) - batch, visit_s / 8)
            deadline = now() + visit_s
            async with self._held(batch, _SHORT_CONTEXT, visit_s) as held:
                for size in itertools.cycle(geometric(_SMALLEST_PROMPT, longest, 8)):
                    arrived = await self._alone(size)
                    # The next prompt is to find steps that only decode.
                    await asyncio.sleep(3 * held.last_gap_s)
                    if now() > deadline or held.has_ended:
                        break
                    steps += held.mixed_steps(arrived, self._limits.step_tokens)
        return steps

    async def _alone(self, tokens: int) -> TimedAnswer:
        answer = TimedAnswer(now())
        await self._endpoint.complete(answer, self._prompts.of(tokens), 1)
        return answer

    @contextlib.asynccontextmanager
    async def _held(self, batch: int, context: int, visit_s: float) -> AsyncIterator[HeldStreams]:
        """Streams that all have begun. They end with the context."""
        output_tokens = self._limits.room_of(batch) - context
        held = HeldStreams([TimedAnswer(now()) for _ in range(batch)], output_tokens)
        running = {
            asyncio.create_task(self._endpoint.complete(answer, self._prompts.of(context), output_tokens))
            for answer in held.answers
        }
        begun = asyncio.create_task(_all_begun(held.answers))
        try:
            await _first_of(begun, running, max(_LEAST_FILL_S, 4 * visit_s))
            if not begun.done():
                count = sum(answer.started.is_set() for answer in held.answers)
                raise IrouterError(
                    f"{count} of {batch} streams began, expected all: does the engine take fewer at a time "
                    "(--max-num-seqs)?"
                )
            yield held
            for task in running:
                if task.done():
                    task.result()
        finally:
            begun.cancel()
            for task in running:
                task.cancel()
            await asyncio.gather(begun, *running, return_exceptions=True)
            await asyncio.sleep(_SETTLE_S)

    def _most_held(self, context: int) -> int:
        by_cache = int(_ROOM * self._limits.kv_tokens) // (context + _FEWEST_STEPS)
        return max(1, min(self._limits.sequences, by_cache))

    def _contexts(self, batch: int, seconds: float) -> list[int]:
        """A short context, and a long one where the cache has room and the time is enough to fill it."""
        room = min(self._limits.room_of(batch) - _FEWEST_STEPS, _LONGEST_CONTEXT)
        longest = self._affordable(room, seconds / 6 / batch)
        return [_SHORT_CONTEXT, longest] if longest >= 4 * _SHORT_CONTEXT else [_SHORT_CONTEXT]

    def _affordable(self, tokens: int, seconds: float) -> int:
        """`tokens`, or fewer where their prefill would take more than `seconds`."""
        most = seconds / self._prefill_token_s if self._prefill_token_s else tokens
        return max(_SMALLEST_PROMPT, int(min(tokens, most)))


async def _all_begun(answers: Sequence[TimedAnswer]) -> None:
    for answer in answers:
        await answer.started.wait()


async def _first_of(begun: asyncio.Task[None], running: set[asyncio.Task[None]], seconds: float) -> None:
    """Waits until all streams have begun, one fails, or the time is up."""
    deadline = now() + seconds
    waited = set(running)
    while not begun.done() and now() < deadline:
        await asyncio.wait({begun, *waited}, timeout=deadline - now(), return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in waited if task.done()]:
            task.result()
            waited.remove(task)


def geometric(low: int, high: int, count: int) -> list[int]:
    """Up to `count` whole numbers from `low` to `high`, in equal proportions."""
    if high <= low:
        return [max(1, min(low, high))]
    return sorted({round(low * (high / low) ** (step / (count - 1))) for step in range(count)})
