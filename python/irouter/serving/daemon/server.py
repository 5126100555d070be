"""The daemon: one router behind a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING

from irouter._core import IrouterError
from irouter.serving.daemon.session import Hub, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from irouter.serving.router import Router

_LOGGER = logging.getLogger("irouter.daemon")


@contextlib.asynccontextmanager
async def daemon(router: Router, path: Path) -> AsyncIterator[Hub]:
    """Serves a router at a socket that only its owner may use, until the context ends.

    Raises:
        IrouterError: When something is there already, or the socket cannot be made.
    """
    hub = Hub(router, asyncio.get_running_loop())
    listener = _listener(path)
    server = await asyncio.get_running_loop().create_unix_server(lambda: Session(hub), sock=listener)
    made = _identity(path)
    try:
        yield hub
    finally:
        # A connection that is accepted but not made yet when its server closes is lost unclosed
        # (`asyncio.Server._attach` asserts): none is accepted from here on, and the last one is made.
        hub.loop.remove_reader(listener)
        await asyncio.sleep(0)
        server.close()
        await hub.close()
        # Another daemon may have taken the place since.
        if _identity(path) == made:
            await asyncio.to_thread(path.unlink)


def _identity(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists():
            _clear(path)
        # The mask holds from the moment that the file is there, which `chmod` afterwards would not.
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise IrouterError(f"cannot listen at {path}: {error.strerror or error}") from error
    except IrouterError:
        listener.close()
        raise
    return listener


def _clear(path: Path) -> None:
    """Removes the socket of a daemon that was killed."""
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise IrouterError(f"{path} is there and no socket, expected a new path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            _LOGGER.warning("removing the socket that a daemon left at %s", path)
            path.unlink()
            return
    raise IrouterError(f"a daemon serves at {path} already")
