"""Streams that an engine decodes together, and the steps that their tokens show."""

from __future__ import annotations

import bisect
import dataclasses
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from irouter.calibration.live_endpoint import TimedAnswer

# Steps of one row: what the connection adds to one it takes from the next.
WINDOW_STEPS: Final = 2


@dataclasses.dataclass(frozen=True, slots=True)
class MeasuredStep:
    """A step of the engine, or the mean of some in a row that did the same. Counts are those of a step log."""

    prefill_sequences: int
    prefill_tokens: int
    prefill_pairs: int
    decodes: int
    decode_context: int
    duration_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class HeldStreams:
    """Streams in one batch. The first one's tokens tell when steps ended.

    Attributes:
        answers: The streams.
        output_tokens: Tokens after which each ends.
    """

    answers: Sequence[TimedAnswer]
    output_tokens: int

    @property
    def has_ended(self) -> bool:
        """Whether one has all its tokens."""
        return any(len(answer.token_s) >= self.output_tokens for answer in self.answers)

    @property
    def last_gap_s(self) -> float:
        """The time between the last two tokens; 0 where there are none."""
        times = self.answers[0].token_s
        return times[-1] - times[-2] if len(times) > 1 else 0.0

    def decode_steps(self) -> list[MeasuredStep]:
        """Means over windows in which all of them decoded and nothing else was there."""
        begin = max(answer.token_s[0] for answer in self.answers)
        end = min(answer.token_s[-1] for answer in self.answers)
        times = [at for at in self.answers[0].token_s if begin <= at <= end]
        steps = []
        for first in range(0, len(times) - WINDOW_STEPS, WINDOW_STEPS):
            spent_s = times[first + WINDOW_STEPS] - times[first]
            middle = times[first + WINDOW_STEPS // 2]
            if spent_s > 0:
                decodes = len(self.answers)
                context = self._context(middle)
                steps.append(MeasuredStep(0, 0, 0, decodes, context, 1e3 * spent_s / WINDOW_STEPS))
        return steps

    def mixed_steps(self, arrived: TimedAnswer, most_tokens: int) -> list[MeasuredStep]:
        """The step that computed all of a prompt that arrived; none where it was not one step.

        Such a step ends with the prompt's first token and with a token of every stream.
        """
        times, at = self.answers[0].token_s, arrived.token_s[0]
        tokens, decodes = arrived.prompt_tokens, len(self.answers)
        after = bisect.bisect_left(times, at)
        ends = [index for index in (after - 1, after) if 1 <= index < len(times)]
        if not ends or tokens + decodes > most_tokens:
            return []
        end = min(ends, key=lambda index: abs(times[index] - at))
        begun = times[end - 1]
        # It was there before its step began.
        if not arrived.sent_s < begun < times[end]:
            return []
        duration_ms = 1e3 * (times[end] - begun)
        return [MeasuredStep(1, tokens, tokens * tokens, decodes, self._context(begun), duration_ms)]

    def _context(self, at: float) -> int:
        """Tokens that all of them have at a time."""
        return sum(answer.prompt_tokens + bisect.bisect_right(answer.token_s, at) for answer in self.answers)
