"""Whatever comes over a socket, the proxy answers or closes, and nothing of it stays."""

import asyncio
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irouter.serving.proxy import app as proxy_app
from irouter.serving.proxy.journal import LOGGER
from serving.fakes import BODY, Bench, bench

MOST_BODY_BYTES = 1 << 16
EXAMPLES = settings().max_examples
# What is not whole has no answer: it is waited for so long.
SILENCE_S = 0.05
# Statuses that say what is wrong with a request; 505 is HTTP's own word for a version.
WELL = {*range(200, 500), 505}
PATHS = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/models",
    "/health",
    "/metrics",
    "/dashboard",
    "/dashboard/state",
    "/dashboard/../x",
    "/admin/instances",
    "//",
    "*",
    "/%00%ff",
    "http://x/v1/models",
)


class Keeping(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)


class Target:
    """A proxy that runs in a thread of its own, until it is told to stop."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    async def _main(self) -> None:
        async with bench(
            max_body_bytes=MOST_BODY_BYTES,
            admin_key="k",
            admin_allowed=("127.0.0.0/8",),
            health_interval_s=60.0,
        ) as self.bench:
            self.loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            self.address = ("127.0.0.1", int(self.bench.url.rpartition(":")[2]))
            self.idle_tasks = len(asyncio.all_tasks())
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Self:
        self._handler = Keeping(self.records)
        LOGGER.addHandler(self._handler)
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        LOGGER.removeHandler(self._handler)
        assert not self._thread.is_alive()

    def exchange(self, sent: bytes, *, silence_s: float = 20.0) -> bytes:
        """What comes back of some bytes, until the proxy closes or is silent for so long."""
        with socket.create_connection(self.address, timeout=silence_s) as connection:
            answer = b""
            try:
                connection.sendall(sent)
                while piece := connection.recv(1 << 16):
                    answer += piece
            except (ConnectionResetError, BrokenPipeError, TimeoutError):
                pass
            return answer

    def assert_clean(self) -> None:
        """It serves, has no request and no task of one, and had no surprise."""
        ok = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert self.exchange(ok).startswith(b"HTTP/1.1 200")
        deadline = time.monotonic() + 20
        while not (self.quiet() and self.tasks() <= self.idle_tasks):
            assert time.monotonic() < deadline, "something is left"
            time.sleep(0.02)
        assert [record for record in self.records if record.exc_info] == []

    def quiet(self) -> bool:
        it: Bench = self.bench
        return it.quiet()

    def tasks(self) -> int:
        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(20)


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with Target() as running:
        yield running


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


TOKENS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)
HEADERS = st.one_of(
    st.sampled_from(
        [
            "Content-Type: application/json",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: identity",
            "Content-Length: -1",
            "Content-Length: 18446744073709551616",
            "Content-Length: 5, 5",
            "Content-Encoding: gzip",
            "Content-Encoding: br",
            "Expect: 100-continue",
            "Upgrade: websocket",
            "Connection: close",
            "Connection: x-irouter-session",
            "Authorization: Bearer k",
            "Authorization: Basic Og==",
            "x-irouter-priority: 1e9",
            "x-irouter-priority: ٣",
            "x-irouter-deadline-s: -0",
            "x-irouter-predicted-tokens: 99999999999999999999",
            "x-irouter-session: \xff\x80",
            "traceparent: 00-" + "0" * 5000,
            "Host: x",
            "Host: [::1",
            "Host:",
        ]
    ),
    st.tuples(TOKENS, TOKENS).map(": ".join),
    TOKENS,
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
JSON = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {"model": VALUES | st.just("m")},
        optional={
            "prompt": VALUES | st.just("x"),
            "messages": VALUES | st.lists(st.fixed_dictionaries({"content": VALUES}), max_size=2),
            "max_tokens": VALUES | st.integers(1, 100),
            "stream": VALUES,
            "stream_options": VALUES,
        },
    ),
).map(lambda value: json.dumps(value).encode())
BODIES = st.one_of(JSON, st.binary(max_size=200), st.just(b"[" * 50_000), st.just(json.dumps(BODY).encode()))


def chunked(body: bytes, sizes: list[str], end: bytes) -> bytes:
    """A body in chunks, whose sizes may not be theirs."""
    return b"".join(size.encode() + b"\r\n" + body + b"\r\n" for size in sizes) + end


@settings(max_examples=12 * EXAMPLES)
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "PRI", "get", "P\x00ST"]),
    st.sampled_from(PATHS) | TOKENS,
    st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", "HTTP", "", "HTTP/1.1 x"]) | TOKENS,
    st.lists(HEADERS, max_size=5),
    st.sampled_from(["honest", "none", "short", "long", "chunks"]),
    BODIES,
    st.lists(st.sampled_from(["1", "5", "ffffffff", "-1", "0x5", "5;a=b", "g", ""]), max_size=3),
    st.sampled_from([b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"0\r\n", b""]),
)
def test_no_request_breaks_it(  # noqa: PLR0917 - one for each strategy
    target: Target,
    method: str,
    path: str,
    version: str,
    headers: list[str],
    length: str,
    body: bytes,
    sizes: list[str],
    end: bytes,
) -> None:
    lines = [f"{method} {path} {version}", "Host: 127.0.0.1", "Connection: close", *headers]
    if length == "chunks":
        lines.append("Transfer-Encoding: chunked")
        honest = [f"{len(body):x}"] if body else []
        body = chunked(body, sizes or honest, end)
    elif length != "none":
        declared = {"honest": len(body), "short": len(body) // 2, "long": len(body) + 5}[length]
        lines.append(f"Content-Length: {declared}")
    head = "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n"
    answer = target.exchange(head + body, silence_s=SILENCE_S)
    assert set(statuses(answer)) <= WELL, (head, answer[:300])


@settings(max_examples=4 * EXAMPLES)
@given(st.binary(max_size=400))
def test_no_bytes_break_it(target: Target, sent: bytes) -> None:
    assert set(statuses(target.exchange(sent, silence_s=SILENCE_S))) <= WELL


@settings(max_examples=4 * EXAMPLES)
@given(JSON, st.sampled_from(["POST", "DELETE", "GET", "PATCH"]), st.text(max_size=20))
def test_no_body_breaks_the_admin_api(target: Target, body: bytes, method: str, url: str) -> None:
    query = "".join(f"%{byte:02x}" for byte in url.encode("utf-8", "replace"))
    head = (
        f"{method} /admin/instances?url={query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    found = statuses(target.exchange(head.encode() + body))
    assert found, "every whole request has an answer"
    assert set(found) <= WELL


@pytest.mark.parametrize("way", ["declared", "chunks"])
def test_a_body_that_is_too_large_is_refused_while_it_comes(target: Target, way: str) -> None:
    piece = b"x" * MOST_BODY_BYTES
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
    with socket.create_connection(target.address, timeout=20) as connection:
        if way == "declared":
            connection.sendall(head + b"Content-Length: 1099511627776\r\n\r\n" + 4 * piece)
        else:
            chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
            connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + 4 * chunk)
        assert statuses(connection.recv(1 << 16)) == [413]
    target.assert_clean()


def test_a_body_that_does_not_come_is_given_up(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_app, "_BODY_TIMEOUT_S", 0.2)
    with socket.create_connection(target.address, timeout=20) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        assert statuses(connection.recv(1 << 16)) == [408]
    target.assert_clean()


def test_requests_in_a_row_on_one_connection_are_told_apart(target: Target) -> None:
    body = json.dumps(BODY).encode()
    one = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    last = one.replace(b"Host: x", b"Host: x\r\nConnection: close")
    assert statuses(target.exchange(3 * one + last)) == [200] * 4
    # Two lengths could be read as two different bodies by two servers.
    smuggled = one.replace(b"Host: x", b"Host: x\r\nTransfer-Encoding: chunked")
    before = len(all_asked(target))
    assert statuses(target.exchange(smuggled))[:1] == [400]
    assert len(all_asked(target)) == before


def all_asked(target: Target) -> list[Any]:
    return [entry for fake in target.bench.fakes for entry in fake.asked]


def test_after_all_that_nothing_is_left(target: Target) -> None:
    target.assert_clean()
