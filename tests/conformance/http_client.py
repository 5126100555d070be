"""Just enough of HTTP to talk to a gateway on the loopback address."""

import asyncio
import json
from typing import Any

HOST = "127.0.0.1"


class AnswerError(Exception):
    """A gateway answered with an error."""


async def request(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> Any:
    """Sends one request and returns the answer, read as JSON where it is JSON.

    Raises:
        AnswerError: With the answer, when its status is not 2xx.
        OSError: When nobody listens.
    """
    data = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {HOST}:{port}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        await writer.drain()
        answer = await reader.read()
    finally:
        writer.close()
    head, _, text = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if not status or not status[0].startswith(b"2"):
        raise AnswerError(f"{method} {path}: {answer.decode(errors='replace')}")
    if b"application/json" not in head.lower():
        return text.decode(errors="replace")
    return json.loads(text)


async def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    servers = [await asyncio.start_server(lambda *_: None, HOST, 0) for _ in range(count)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    for server in servers:
        server.close()
        await server.wait_closed()
    return ports
