"""Tokens, counted from what can be seen of them."""

from __future__ import annotations

import json
from typing import Any, Final

# What a byte of text is in tokens before anything was learned, and how much one answer changes it.
_BYTES_PER_TOKEN: Final = 4.0
_WEIGHT: Final = 0.05
# A piece with more text than so many tokens have on average has several.
_ONE_TOKEN: Final = 2.0
# An event that is longer is passed on, but not counted.
_LONGEST_EVENT_BYTES: Final = 1 << 20
# No text teaches a ratio beyond these.
_LEAST_BYTES, _MOST_BYTES = 0.25, 32.0


class TokenRatio:
    """Bytes of text per token, learned from the `usage` of answers."""

    def __init__(self) -> None:
        self.bytes_per_token = _BYTES_PER_TOKEN

    def tokens(self, text_bytes: int) -> int:
        """Tokens that so much text probably has, at least 1."""
        return max(1, round(text_bytes / self.bytes_per_token))

    def learn(self, text_bytes: int, tokens: int) -> None:
        """A text of so many bytes had so many tokens."""
        if text_bytes > 0 and tokens > 0:
            ratio = min(max(text_bytes / tokens, _LEAST_BYTES), _MOST_BYTES)
            self.bytes_per_token += _WEIGHT * (ratio - self.bytes_per_token)


class StreamCounter:
    """Counts the tokens of a streamed answer from its bytes, however they are cut.

    A piece is one token, unless the pieces so far have more text than single tokens would: then tokens are
    counted by text.

    Attributes:
        usage: The `usage` that the answer told, when it did.
        done: Whether the end of the stream was seen.
    """

    def __init__(self, ratio: TokenRatio) -> None:
        self._ratio = ratio
        self._rest = b""
        self._pieces = 0
        self.text_bytes = 0
        self.usage: dict[str, Any] | None = None
        self.done = False

    @property
    def tokens(self) -> int:
        """Tokens so far."""
        by_text = self.text_bytes / self._ratio.bytes_per_token
        return round(by_text) if by_text > _ONE_TOKEN * self._pieces else self._pieces

    def feed(self, chunk: bytes) -> None:
        """Takes in what came next."""
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > _LONGEST_EVENT_BYTES:
            self._rest = b""
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.done = True
            return
        try:
            event = json.loads(data)
            usage, choices = event.get("usage"), event.get("choices") or ()
            for choice in choices:
                text = choice.get("text") or _content(choice.get("delta"))
                if text:
                    self._pieces += 1
                    self.text_bytes += len(text.encode("utf-8", "surrogatepass"))
        except (ValueError, AttributeError, TypeError, RecursionError):
            return  # what an engine says is passed on as it is; it only cannot be counted
        if isinstance(usage, dict):
            self.usage = usage


def _content(delta: Any) -> str:
    if not isinstance(delta, dict):
        return ""
    parts = (delta.get("content"), delta.get("reasoning_content"), delta.get("reasoning"))
    return "".join(part for part in parts if isinstance(part, str))


def whole_number(usage: dict[str, Any] | None, field: str) -> int | None:
    """A count of a `usage`, where it has one."""
    value = None if usage is None else usage.get(field)
    return value if type(value) is int and value > 0 else None
