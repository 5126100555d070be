"""A live endpoint under measurement: what it says of itself, and answers with the time of every token."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import statistics
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from irouter._core import IrouterError

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

_ERROR_CHARACTERS: Final = 300
_ROUND_TRIPS: Final = 9
_QUIET_S: Final = 120.0


def now() -> float:
    """The time of the running event loop, in seconds."""
    return asyncio.get_running_loop().time()


@dataclasses.dataclass(frozen=True, slots=True)
class EndpointFacts:
    """What an endpoint says of itself; None where it does not.

    Attributes:
        model: The model that it serves.
        max_model_len: Most tokens of prompt and output together.
        block_tokens: Tokens of a KV block.
        kv_blocks: Blocks of its KV cache.
        prefix_cache: Whether it keeps prefixes.
    """

    model: str
    max_model_len: int | None = None
    block_tokens: int | None = None
    kv_blocks: int | None = None
    prefix_cache: bool | None = None


@dataclasses.dataclass(slots=True)
class TimedAnswer:
    """A streamed answer, as it comes. Times are those of the event loop.

    Attributes:
        sent_s: When the request was sent.
        token_s: When each token came.
        prompt_tokens: Tokens of the prompt; 0 until the first token has come.
        started: Set with the first token.
    """

    sent_s: float
    token_s: list[float] = dataclasses.field(default_factory=list)
    prompt_tokens: int = 0
    started: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)


class Endpoint(Protocol):
    """What can be probed."""

    prompt_tokens: int
    """Prompt tokens of all that was answered."""

    async def facts(self) -> EndpointFacts:
        """Asks what it is, and which model to name in what follows."""

    async def prompt_tokens_served(self) -> float | None:
        """Prompt tokens that it counts, of everybody; None where it does not."""

    async def round_trip_s(self) -> float:
        """Time of a request that needs no engine."""

    async def complete(self, answer: TimedAnswer, prompt: str, output_tokens: int) -> None:
        """Asks for exactly `output_tokens` and notes in `answer` when each comes. Cancelling it ends the request."""


class LiveEndpoint:
    """An endpoint that speaks OpenAI's completions and knows two options of vLLM's.

    They are `ignore_eos`, so that lengths are as asked for, and `continuous_usage_stats`, so that tokens are counted as
    they come.
    """

    def __init__(
        self, url: str, session: aiohttp.ClientSession, *, model: str | None, api_key: str | None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise IrouterError(f"endpoint {url!r}, expected a URL such as http://localhost:8000")
        self._base = url.rstrip("/").removesuffix("/v1")
        self._session = session
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=_QUIET_S)
        self._model = model
        self.prompt_tokens = 0
        """Prompt tokens of all that was answered."""

    async def facts(self) -> EndpointFacts:
        """Asks what it is, and which model to name in what follows.

        Raises:
            IrouterError: When it does not answer, or serves other models than the one asked for.
        """
        url = f"{self._base}/v1/models"
        try:
            cards = {card["id"]: card for card in json.loads(await self._get("/v1/models"))["data"]}
        except (ValueError, KeyError, TypeError) as error:
            raise IrouterError(
                f"{url}: {type(error).__name__}: {error}, expected a list of models"
            ) from error
        model = self._model or (next(iter(cards)) if len(cards) == 1 else None)
        if model is None or model not in cards:
            asked = "several models" if model is None else f"no model `{model}`"
            raise IrouterError(f"{url}: {asked}, expected the name of one of {', '.join(cards)}")
        self._model = model
        samples = await self._samples()
        cache = next((sample.labels for sample in samples if sample.name == "vllm:cache_config_info"), {})
        # vLLM on CPU counts the blocks of its only cache under the same name as those of a GPU.
        return EndpointFacts(
            model=model,
            max_model_len=cards[model].get("max_model_len"),
            block_tokens=_whole(cache.get("block_size")),
            kv_blocks=_whole(cache.get("num_gpu_blocks")),
            prefix_cache={"True": True, "False": False}.get(cache.get("enable_prefix_caching", "")),
        )

    async def prompt_tokens_served(self) -> float | None:
        """Prompt tokens that its metrics count, of everybody; None without metrics."""
        counts = [
            sample.value for sample in await self._samples() if sample.name == "vllm:prompt_tokens_total"
        ]
        return sum(counts) if counts else None

    async def round_trip_s(self) -> float:
        """Median time of a request that needs no engine."""
        times = []
        for _ in range(_ROUND_TRIPS):
            started = now()
            await self._get("/v1/models")
            times.append(now() - started)
        return statistics.median(times)

    async def complete(self, answer: TimedAnswer, prompt: str, output_tokens: int) -> None:
        """Asks for exactly `output_tokens` and notes in `answer` when each comes. Cancelling it ends the request.

        Raises:
            IrouterError: For an answer that is refused, breaks, or has another length.
        """
        url = f"{self._base}/v1/completions"
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": output_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        try:
            async with self._session.post(
                url, json=body, headers=self._headers, timeout=self._timeout
            ) as response:
                if response.status != HTTPStatus.OK:
                    text = (await response.text(errors="replace"))[:_ERROR_CHARACTERS]
                    raise IrouterError(f"{url}: status {response.status}: {text}")
                async for line in response.content:
                    at = now()
                    if line.startswith(b"data: {"):
                        self._note(answer, json.loads(line[6:]), at)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise IrouterError(f"{url}: {type(error).__name__}: {error}") from error
        if len(answer.token_s) != output_tokens:
            raise IrouterError(
                f"{url}: an answer of {len(answer.token_s)} tokens, expected {output_tokens} as `ignore_eos` says"
            )

    def _note(self, answer: TimedAnswer, event: dict[str, Any], at: float) -> None:
        usage = event.get("usage")
        if usage is None:
            raise IrouterError(
                f"{self._base}: a piece of an answer without `usage`, expected it in each as "
                "`continuous_usage_stats` says"
            )
        if not answer.started.is_set():
            answer.prompt_tokens = usage["prompt_tokens"]
            self.prompt_tokens += answer.prompt_tokens
        # A piece has several tokens where the engine was faster than the connection.
        answer.token_s.extend([at] * (usage["completion_tokens"] - len(answer.token_s)))
        if answer.token_s:
            answer.started.set()

    async def _samples(self) -> list[Sample]:
        """Samples of its metrics; none where it has no such page."""
        try:
            text = await self._get("/metrics")
            return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        except (IrouterError, ValueError):
            return []

    async def _get(self, path: str) -> str:
        url = self._base + path
        try:
            async with self._session.get(url, headers=self._headers, timeout=self._timeout) as response:
                text = await response.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise IrouterError(f"{url}: {type(error).__name__}: {error}") from error
        if response.status != HTTPStatus.OK:
            raise IrouterError(f"{url}: status {response.status}: {text[:_ERROR_CHARACTERS]}")
        return text


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() and int(text) > 0 else None
