"""What the OpenAI API says in requests, as far as routing cares."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Final

from irouter._core import IrouterError

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
# What the API produces of a completion that does not say how much.
_DEFAULT_COMPLETION_TOKENS: Final = 16


@dataclasses.dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request to one of the two endpoints that generate.

    Attributes:
        body: The whole body.
        model: The model that it asks for.
        prompt: Its text; of messages all texts, one after the other; empty where the prompt is token numbers.
        token_count: Tokens of a prompt that is token numbers.
        max_tokens: Most tokens of the answer, where it says so.
        stream: Whether the answer comes in pieces.
        include_usage: Whether the last piece is to have the usage.
    """

    body: dict[str, Any]
    model: str
    prompt: str
    token_count: int | None
    max_tokens: int | None
    stream: bool
    include_usage: bool


def parse(path: str, raw: bytes) -> ApiRequest:
    """Reads the body of a request to `path`.

    Raises:
        IrouterError: For a body that is no such request, naming the field.
    """
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise IrouterError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise IrouterError(f"the body is a {type(body).__name__}, expected an object")
    chat = path == CHAT
    prompt, token_count = _messages(body) if chat else _prompt(body)
    options = body.get("stream_options") or {}
    max_tokens = body.get("max_completion_tokens", body.get("max_tokens")) if chat else body.get("max_tokens")
    if max_tokens is None and not chat:
        max_tokens = _DEFAULT_COMPLETION_TOKENS
    if max_tokens is not None and (type(max_tokens) is not int or not 1 <= max_tokens < 1 << 32):
        raise IrouterError(f"`max_tokens` is {max_tokens!r}, expected a whole number of at least 1")
    return ApiRequest(
        body=body,
        model=_text(body, "model"),
        prompt=prompt,
        token_count=token_count,
        max_tokens=max_tokens,
        stream=bool(body.get("stream")),
        include_usage=isinstance(options, dict) and bool(options.get("include_usage")),
    )


def error_body(message: str, *, kind: str = "invalid_request_error", code: int = 400) -> dict[str, Any]:
    """An error as the API has it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _text(body: dict[str, Any], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str):
        raise IrouterError(f"`{field}` is {value!r:.60}, expected text")
    return value


def _prompt(body: dict[str, Any]) -> tuple[str, int | None]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt, None
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return "", len(prompt)
    raise IrouterError(f"`prompt` is {prompt!r:.60}, expected one text or one list of token numbers")


def _messages(body: dict[str, Any]) -> tuple[str, None]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise IrouterError(f"`messages` is {messages!r:.60}, expected a list with at least one message")
    texts: list[str] = []
    for number, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else [content]
        for part in parts:
            text = part.get("text", "") if isinstance(part, dict) else part
            if not isinstance(text, str | None) or not isinstance(message, dict):
                raise IrouterError(
                    f"`messages[{number}]` is {message!r:.60}, expected a message with content"
                )
            texts.append(text or "")
    return "\n".join(texts), None
