"""Commands that serve, each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, Self

from irouter._core import IrouterError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

_START_S: Final = 60.0
_STOP_S: Final = 5.0
_PAUSE_S: Final = 0.05


class Processes:
    """Starts commands, and stops all of them on the way out, however that is.

    They are in sessions of their own: what interrupts the terminal reaches this process, which then stops them.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` gets what they log."""
        self._folder = folder
        self._running: list[asyncio.subprocess.Process] = []

    async def start(self, *arguments: str) -> str:
        """Starts `irouter ARGUMENTS`, and returns the URL, of a daemon the socket, at which it says that it listens.

        Raises:
            IrouterError: When it ends, or says nothing in time.
        """
        log = self._log(arguments[0])
        with log.open("w", encoding="utf-8") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "irouter.cli",
                *arguments,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"COLUMNS": "400", "NO_COLOR": "1"},
                start_new_session=True,
            )
        self._running.append(process)
        line = b""
        if process.stdout is not None:
            with contextlib.suppress(TimeoutError):
                line = await asyncio.wait_for(process.stdout.readline(), _START_S)
        url = line.decode().rpartition(" ")[2].strip()
        if not url.startswith(("http", "/")):
            said = log.read_text(encoding="utf-8").strip() or f"nothing in {_START_S:g} s"
            raise IrouterError(f"`irouter {arguments[0]}` did not start: {said}")
        return url

    async def launch(
        self, program: Path | str, *arguments: str, port: int, environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts another program, and returns when `port` of this machine takes connections.

        Raises:
            IrouterError: When it ends, or does not listen in time.
        """
        name = PurePath(program).name
        log = self._log(name)
        with log.open("w", encoding="utf-8") as output:
            process = await asyncio.create_subprocess_exec(
                program,
                *arguments,
                stdout=output,
                stderr=output,
                env=os.environ | dict(environment or {}),
                start_new_session=True,
            )
        self._running.append(process)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_S):
                while process.returncode is None:
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.close()
                        return
                    await asyncio.sleep(_PAUSE_S)
        said = log.read_text(encoding="utf-8").strip() or f"it does not listen on {port} in {_START_S:g} s"
        raise IrouterError(f"`{name}` did not start: {said}")

    @property
    def pids(self) -> list[int]:
        """Their process ids, in the order in which they were started."""
        return [process.pid for process in self._running]

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}-{len(self._running)}.log"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        ends = [asyncio.ensure_future(process.wait()) for process in self._running]
        if ends:
            await asyncio.wait(ends, timeout=_STOP_S)
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
