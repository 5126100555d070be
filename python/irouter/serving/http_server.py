"""Runs a web application until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

from aiohttp import web

from irouter._core import IrouterError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any


async def serve_app(
    app: web.Application,
    *,
    host: str,
    port: int,
    ready: Callable[[str], object],
    drain: Callable[[], Awaitable[object]] | None = None,
    tls: ssl.SSLContext | None = None,
    reuse_port: bool = False,
) -> None:
    """Serves until SIGTERM or SIGINT. A handler is cancelled when its client goes away.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port; 0 for a free one.
        ready: Called with the URL when it listens.
        drain: Awaited after the signal, before the application is cleaned up.
        tls: Certificates, for https.
        reuse_port: Whether other processes may listen on the same port.

    Raises:
        IrouterError: When the address cannot be listened on.
    """
    stopping = asyncio.Event()
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=tls, backlog=1024, reuse_port=reuse_port or None)
        try:
            await site.start()
        except OSError as error:
            raise IrouterError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):  # there are no signals on Windows
                asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        ready(f"{'http' if tls is None else 'https'}://{shown}:{bound}")
        await stopping.wait()
        if drain is not None:
            await drain()
    finally:
        await runner.cleanup()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine on uvloop, where there is one."""
    try:
        import uvloop  # noqa: PLC0415 - absent on Windows
    except ModuleNotFoundError:
        asyncio.run(main)
    else:
        uvloop.run(main)
