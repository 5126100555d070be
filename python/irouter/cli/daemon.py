"""`irouter daemon`."""

import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from irouter._extras import require
from irouter.cli.console import out

EXAMPLES = """[bold]Examples[/bold]

irouter daemon /run/irouter.sock --config proxy.toml

irouter daemon router.sock --instance http://10.0.0.1:8000 --policy ordered_hold
"""


def daemon(
    path: Annotated[
        Path, typer.Argument(help="Socket to serve at; only its owner may use it.", show_default=False)
    ],
    *,
    instance: Annotated[
        list[str] | None,
        typer.Option(
            help="Base URL of an engine; once for each. In place of those of the file.", show_default=False
        ),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="The policy.", show_default=False)] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="What the engines are like: a profile or a .json file.", show_default=False),
    ] = None,
    poll_seconds: Annotated[
        float | None,
        typer.Option(
            min=0, help="Read the metrics of engines this often; never without it.", show_default=False
        ),
    ] = None,
    decision_log: Annotated[
        Path | None, typer.Option(help="Write the decision log here, for irouter replay.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of irouter serve (docs/serve.md).", show_default=False)
    ] = None,
) -> None:
    """Run one router for several processes, which ask it through a Unix socket.

    They are [bold]irouter serve --daemon PATH[/bold], or programs that call [bold]irouter.connect(PATH)[/bold].
    """
    require("aiohttp", extra="serve", purpose="irouter daemon")
    from irouter.serving.daemon.server import daemon as serve  # noqa: PLC0415 - starts fast without it
    from irouter.serving.http_server import run  # noqa: PLC0415 - needs the extra
    from irouter.serving.proxy import read_config  # noqa: PLC0415 - needs the extra
    from irouter.serving.proxy.journal import JsonFormatter  # noqa: PLC0415 - with the others
    from irouter.serving.proxy.routing import attended, local_router  # noqa: PLC0415 - with the others

    changes = {
        "instances": instance,
        "policy": policy,
        "profile": profile,
        "poll_s": poll_seconds,
        "decision_log": None if decision_log is None else str(decision_log),
    }
    settings = read_config(config, changes, needs_instance=False)
    pool = settings.check_for_daemon()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("irouter.daemon", "irouter.serve"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False

    async def main() -> None:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        with (
            contextlib.closing(local_router(pool, settings, None)) as router,
            contextlib.ExitStack() as stack,
        ):
            async with serve(router, path):
                stack.enter_context(attended(router, settings))
                count = len(pool.instances)
                out.print(f"{pool.policy} over {count} instances at {path}", highlight=False, soft_wrap=True)
                await stopping.wait()

    run(main())
