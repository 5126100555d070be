"""Real output lengths of prompts, from an endpoint that serves a model."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import socket
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from irouter._core import IrouterError
from irouter._tables import read_table
from irouter.prediction.requests import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_KEPT: Final = ("task", "app", "group", "split")
_ERROR_CHARACTERS: Final = 300
# An endpoint that fails so often in a row is gone; single requests may fail.
_MOST_FAILURES_IN_A_ROW: Final = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An endpoint that speaks OpenAI's chat completions.

    Attributes:
        url: Its base, such as `http://localhost:8000/v1`.
        model: Name of the model.
        max_tokens: Most tokens of an answer; those that reach it are recorded as `finish` = `length`.
        temperature: Temperature of sampling.
        api_key: Key that it asks for.
        concurrency: Requests at a time.
        timeout_s: Longest that one request may take, in seconds.
    """

    url: str
    model: str
    max_tokens: int = 1024
    temperature: float = 0.7
    api_key: str | None = None
    concurrency: int = 16
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise IrouterError(f"endpoint {self.url!r}, expected a URL such as http://localhost:8000/v1")
        for name in ("max_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise IrouterError(f"`{name}` is {getattr(self, name)}, expected at least 1")


@dataclasses.dataclass(frozen=True, slots=True)
class Labelled:
    """What a run of labelling did.

    Attributes:
        added: Rows that it added.
        failures: What went wrong with each row that failed; the next run asks for those again.
    """

    added: int
    failures: Sequence[str]


def label(
    prompts_file: Path,
    out_file: Path,
    endpoint: Endpoint,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Labelled:
    """Sends every prompt of a file to an endpoint, and writes a log with the lengths of its answers.

    The log is JSONL, a row per answer as it comes. Rows that it has from an earlier run are not asked for again, so
    that what was broken off goes on. A request that fails is left out, and the others go on. However it ends, requests
    that are under way are given up at once.

    Args:
        prompts_file: JSONL, Parquet or CSV with `prompt` and, where there are any, `task`, `app`, `group` and `split`.
        out_file: The log, which is created or continued.
        endpoint: Who answers.
        progress: Called as `progress(done, total)`.

    Returns:
        What was added, and what failed.

    Raises:
        IrouterError: For a file without prompts, a log that is of other prompts, or an endpoint that fails ten times in
            a row; rows that came before are kept.
    """
    frame = read_table(prompts_file, purpose="reading prompts")
    if "prompt" not in frame.columns:
        raise IrouterError(
            f"{prompts_file.name}: no column `prompt`; the file has {', '.join(frame.columns)}"
        )
    columns = [name for name in ("prompt", *_KEPT) if name in frame.columns]
    rows = frame.select(columns).to_dicts()
    done = _labelled(out_file, rows)
    todo = [number for number in range(len(rows)) if number not in done]
    for number in todo:
        readable(rows[number]["prompt"], f"{prompts_file.name}: row {number + 1}: `prompt`")
    added, in_a_row = 0, 0
    failures: list[str] = []
    asker = _Asker(endpoint)
    pool = concurrent.futures.ThreadPoolExecutor(endpoint.concurrency)
    try:
        with out_file.open("a", encoding="utf-8") as log:
            futures = {pool.submit(asker.ask, rows[number]["prompt"]): number for number in todo}
            for future in concurrent.futures.as_completed(futures):
                number = futures[future]
                try:
                    row = {**rows[number], **future.result(), "row": number}
                except IrouterError as error:
                    failures.append(f"row {number + 1}: {error}")
                    in_a_row += 1
                    if in_a_row >= min(_MOST_FAILURES_IN_A_ROW, len(todo)):
                        raise
                    continue
                in_a_row = 0
                log.write(json.dumps(row, ensure_ascii=False) + "\n")
                log.flush()
                added += 1
                if progress is not None:
                    progress(len(done) + added, len(rows))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        asker.close()
    return Labelled(added, failures)


def _labelled(out_file: Path, rows: list[dict[str, Any]]) -> set[int]:
    """Rows that the log has. Its last line is dropped where it was broken off."""
    if not out_file.exists():
        return set()
    done: set[int] = set()
    whole = 0
    with out_file.open("rb") as log:
        for line in log:
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                number = int(row["row"])
                same = row["prompt"] == rows[number]["prompt"]
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise IrouterError(
                    f"{out_file.name}: line {len(done) + 1}: {type(error).__name__}: {error}; "
                    "expected rows of an earlier labelling of the same prompts"
                ) from error
            if not same:
                raise IrouterError(
                    f"{out_file.name}: line {len(done) + 1} is of another prompt than row {number + 1}, expected the "
                    "log of the same file"
                )
            done.add(number)
            whole += len(line)
    with out_file.open("r+b") as log:
        log.truncate(whole)
    return done


class _Asker:
    """Asks for answers in many threads; closing it ends the connections of all."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._url = f"{endpoint.url.rstrip('/')}/chat/completions"
        self._lock = threading.Lock()
        self._open: set[http.client.HTTPConnection] = set()
        self._is_closed = False

    def ask(self, prompt: str) -> dict[str, Any]:
        """Length and end of one answer.

        Raises:
            IrouterError: When there is none.
        """
        content = {
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._endpoint.max_tokens,
            "temperature": self._endpoint.temperature,
        }
        try:
            with self._connection() as connection:
                connection.request(
                    "POST", urlsplit(self._url).path, json.dumps(content), headers=self._headers()
                )
                response = connection.getresponse()
                body = response.read()
            if response.status != HTTPStatus.OK:
                text = body.decode("utf-8", errors="replace")[:_ERROR_CHARACTERS]
                raise IrouterError(f"{self._url}: status {response.status}: {text}")
            return dict(_figures(json.loads(body), self._url))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise IrouterError(f"{self._url}: {str(error) or type(error).__name__}") from error

    def close(self) -> None:
        """Ends every connection: its thread sees an error, its engine that nobody waits any more."""
        with self._lock:
            self._is_closed = True
            for connection in self._open:
                if connection.sock is not None:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        parts = urlsplit(self._url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=self._endpoint.timeout_s)
        connection.connect()
        with self._lock:
            if self._is_closed:
                connection.close()
                raise ConnectionAbortedError("closed")
            self._open.add(connection)
        try:
            yield connection
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _headers(self) -> dict[str, str]:
        key = self._endpoint.api_key
        authorisation = {} if key is None else {"Authorization": f"Bearer {key}"}
        return {"Content-Type": "application/json", **authorisation}


def _figures(answer: Mapping[str, Any], url: str) -> Iterator[tuple[str, Any]]:
    try:
        yield "prompt_tokens", int(answer["usage"]["prompt_tokens"])
        yield "output_tokens", int(answer["usage"]["completion_tokens"])
        finish = answer["choices"][0]["finish_reason"]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise IrouterError(
            f"{url}: an answer without {error}, expected `usage` and `choices` of chat completions"
        ) from error
    yield "finish", "length" if finish == "length" else "stop"
