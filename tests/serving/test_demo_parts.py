"""The parts of the demo that comparisons with other routers use as well."""

import asyncio
import sys
from pathlib import Path

import pytest
from aiohttp import web

from irouter import IrouterError
from irouter.serving.demo.load import PairedLoad
from irouter.serving.demo.processes import Processes
from irouter.serving.demo.workload import DemoRequest
from live_routers import free_port


def test_several_proxies_get_the_requests_in_turn_with_the_key() -> None:
    got: list[tuple[str, str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        got.append((str(request.url.port), request.headers["authorization"], body["prompt"]))
        return web.Response(text="data: x\n\ndata: [DONE]\n\n")

    async def main() -> list[str]:
        app = web.Application()
        app.add_routes([web.post("/v1/completions", answer)])
        runner = web.AppRunner(app)
        await runner.setup()
        sites = [web.TCPSite(runner, "127.0.0.1", 0) for _ in range(2)]
        for site in sites:
            await site.start()
        ports = [str(address[1]) for address in runner.addresses]
        requests = [DemoRequest(0.05 * number, f"prompt {number}", 8) for number in range(4)]
        load = PairedLoad([f"http://127.0.0.1:{port}" for port in ports], requests, ("m",), api_key="secret")
        await load.run()
        assert (load.figures()["m"].finished, load.figures()["m"].failed) == (4, 0)
        await runner.cleanup()
        return ports

    first, second = asyncio.run(main())
    expected = [(port, "Bearer secret", f"prompt {n}") for n, port in enumerate([first, second] * 2)]
    assert got == expected


def test_another_program_is_ready_when_its_port_takes_connections(tmp_path: Path) -> None:
    async def main() -> None:
        port = free_port()
        async with Processes(tmp_path) as processes:
            await processes.launch(
                sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port), port=port
            )
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


def test_a_program_that_ends_at_once_is_an_error_with_what_it_said(tmp_path: Path) -> None:
    async def main() -> None:
        async with Processes(tmp_path) as processes:
            await processes.launch(
                sys.executable, "-c", "raise SystemExit('no such thing')", port=free_port()
            )

    with pytest.raises(IrouterError, match="did not start: no such thing"):
        asyncio.run(main())
