"""What the OpenAI API says in requests, as far as routing cares."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Final

from irouter._core import IrouterError
from irouter.serving.request import RequestFields, encodable

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
        prompt: Its text: of messages and of several prompts all texts, one after the other.
        prompt_count: How many prompts it has.
        token_count: Tokens of prompts that are token numbers, which then have no text.
        max_tokens: Most tokens of the answer, where it says so.
        stream: Whether the answer comes in pieces.
        include_usage: Whether the last piece is to have the usage.
        continuous_usage: Whether each piece is to have the usage so far, an option of vLLM's.
    """

    body: dict[str, Any]
    model: str
    prompt: str
    prompt_count: int
    token_count: int | None
    max_tokens: int | None
    stream: bool
    include_usage: bool
    continuous_usage: bool


def parse(path: str, raw: bytes) -> ApiRequest:
    """Reads the body of a request to `path`.

    Raises:
        IrouterError: For a body that is no such request, naming the field.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise IrouterError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise IrouterError(f"the body is a {type(body).__name__}, expected an object")
    return read(path, body)


def read(path: str, body: dict[str, Any]) -> ApiRequest:
    """Reads the body of a request to `path`, decoded.

    Raises:
        IrouterError: For a body that is no such request, naming the field.
    """
    chat = path == CHAT
    prompts, token_count = (_messages(body), None) if chat else _prompts(body)
    options = body.get("stream_options")
    options = options if isinstance(options, dict) else {}
    max_tokens = body.get("max_tokens")
    if chat and body.get("max_completion_tokens") is not None:
        max_tokens = body["max_completion_tokens"]
    elif max_tokens is None and not chat:
        max_tokens = _DEFAULT_COMPLETION_TOKENS
    if max_tokens is not None and (type(max_tokens) is not int or not 1 <= max_tokens < 1 << 32):
        raise IrouterError(f"`max_tokens` is {max_tokens!r:.60}, expected a whole number of at least 1")
    model = body.get("model")
    if not isinstance(model, str):
        raise IrouterError(f"`model` is {model!r:.60}, expected text")
    return ApiRequest(
        body=body,
        model=model,
        prompt=encodable("\n".join(prompts)),
        prompt_count=1 if chat else len(prompts),
        token_count=token_count,
        max_tokens=max_tokens,
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("continuous_usage_stats")),
    )


def request_fields(body: dict[str, Any]) -> RequestFields:
    """What `irouter.Router` is told of a chat, where the body has `messages`, or a completion.

    Raises:
        IrouterError: For a body that is neither, naming the field.
    """
    asked = read(CHAT if "messages" in body else COMPLETIONS, {"model": "", **body})
    fields: RequestFields = {}
    if asked.token_count is None:
        fields["prompt"] = asked.prompt
    else:
        fields["prompt_tokens"] = asked.token_count
    if asked.max_tokens is not None:
        fields["max_tokens"] = asked.max_tokens
    return fields


def error_body(message: str, *, kind: str = "invalid_request_error", code: int = 400) -> dict[str, Any]:
    """An error as the API has it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _prompts(body: dict[str, Any]) -> tuple[list[str], int | None]:
    """Texts, or as many empty ones with the tokens of all."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [prompt], None
    if isinstance(prompt, list) and prompt:
        if all(isinstance(text, str) for text in prompt):
            return prompt, None
        lists = [prompt] if all(type(token) is int for token in prompt) else prompt
        if all(
            isinstance(tokens, list) and tokens and all(type(token) is int for token in tokens)
            for tokens in lists
        ):
            return [""] * len(lists), sum(map(len, lists))
    raise IrouterError(f"`prompt` is {prompt!r:.60}, expected text, token numbers, or a list of either")


def _messages(body: dict[str, Any]) -> list[str]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise IrouterError(f"`messages` is {messages!r:.60}, expected a list with at least one message")
    texts: list[str] = []
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise IrouterError(f"`messages[{number}]` is {message!r:.60}, expected an object")
        content = message.get("content")
        # Parts that are no text, such as images, count for nothing.
        parts = content if isinstance(content, list) else [content]
        found = (part.get("text") if isinstance(part, dict) else part for part in parts)
        texts += [text for text in found if isinstance(text, str)]
    return texts or [""]
