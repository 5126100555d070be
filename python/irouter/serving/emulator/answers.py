"""Answers of an emulated engine, as vLLM words them. The same request gives the same bytes from every instance."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from irouter.serving.openai import CHAT, ApiRequest

# Three letters and a space: a token of four bytes, as prompts are counted.
_WORDS: Final = [
    "and",
    "the",
    "for",
    "are",
    "but",
    "not",
    "you",
    "all",
    "any",
    "can",
    "had",
    "her",
    "was",
    "one",
    "our",
    "out",
    "day",
    "get",
    "has",
    "him",
    "his",
    "how",
    "man",
    "new",
    "now",
    "old",
    "see",
    "two",
    "way",
    "who",
    "boy",
    "did",
    "its",
    "let",
    "put",
    "say",
    "she",
    "too",
    "use",
    "air",
    "big",
    "box",
    "car",
    "cat",
    "cup",
    "dog",
    "ear",
    "egg",
    "eye",
    "fly",
    "fun",
    "gas",
    "hat",
    "ice",
    "ink",
    "jar",
    "key",
    "lab",
    "leg",
    "map",
    "net",
]
# Answers are the same at any time, so that they can be compared.
_CREATED: Final = 1_700_000_000


class Answer:
    """Puts the tokens of one request into words."""

    def __init__(
        self, path: str, request: ApiRequest, *, prompt_tokens: int, output_tokens: int, cut: bool
    ) -> None:
        digest = hashlib.blake2b(json.dumps(request.body, sort_keys=True).encode()).digest()
        self._chat = path == CHAT
        self._request = request
        self._seed = digest
        self._prompt_tokens = prompt_tokens
        self._output_tokens = output_tokens
        self._finish = "length" if cut else "stop"
        self._id = f"{'chatcmpl' if self._chat else 'cmpl'}-{digest[:12].hex()}"

    def text(self, start: int, end: int) -> str:
        """The words of tokens `start` to `end`."""
        seed = self._seed
        return "".join(
            " " + _WORDS[(seed[number % len(seed)] + 7 * number) % len(_WORDS)]
            for number in range(start, end)
        )

    def usage(self, cached_tokens: int | None, produced: int | None = None) -> dict[str, Any]:
        """Tokens of prompt and answer, all or so far; those of the prefix cache where they are asked for."""
        output_tokens = self._output_tokens if produced is None else produced
        usage: dict[str, Any] = {
            "prompt_tokens": self._prompt_tokens,
            "total_tokens": self._prompt_tokens + output_tokens,
            "completion_tokens": output_tokens,
        }
        if cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": cached_tokens}
        return usage

    def whole(self, cached_tokens: int | None) -> bytes:
        """The answer in one piece."""
        text = self.text(0, self._output_tokens)
        content: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        )
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": self._finish}
        return _json(self._envelope([choice], piece=False) | {"usage": self.usage(cached_tokens)})

    def piece(self, start: int, end: int) -> bytes:
        """A server-sent event with tokens `start` to `end`."""
        text = self.text(start, end)
        role = {"role": "assistant"} if start == 0 else {}
        content: dict[str, Any] = {"delta": {**role, "content": text}} if self._chat else {"text": text}
        finish = self._finish if end == self._output_tokens else None
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
        usage = {"usage": self.usage(None, end)} if self._request.continuous_usage else {}
        return _event(self._envelope([choice], piece=True) | usage)

    def last(self, cached_tokens: int | None) -> bytes:
        """What follows the last token: the usage, where it was asked for, and the end."""
        usage = self._envelope([], piece=True) | {"usage": self.usage(cached_tokens)}
        return (_event(usage) if self._request.include_usage else b"") + b"data: [DONE]\n\n"

    def _envelope(self, choices: list[dict[str, Any]], *, piece: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if piece else "chat.completion") if self._chat else "text_completion"
        return {
            "id": self._id,
            "object": kind,
            "created": _CREATED,
            "model": self._request.model,
            "choices": choices,
        }


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + _json(data) + b"\n\n"
