"""`irouter demo`."""

import asyncio
import contextlib
import json
import math
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.live import Live
from rich.table import Table

from irouter._core import IrouterError
from irouter._extras import require
from irouter.cli.console import out, plain_table
from irouter.evaluation.policies import choice_of

if TYPE_CHECKING:
    from irouter.serving.demo.load import PairedLoad

EXAMPLES = """[bold]Examples[/bold]

irouter demo

irouter demo --policy ordered_hold --load 1.4

irouter demo --trace conv.parquet --duration 30
"""
_AGAINST: Final = "round_robin"
_REFRESH_S: Final = 0.25
_TERMINATED: Final = 143


def demo(
    *,
    policy: Annotated[str, typer.Option(help="The policy that is shown against round robin.")] = "guided",
    trace: Annotated[
        Path | None,
        typer.Option(help="Trace to replay; without it the workload of the paper.", show_default=False),
    ] = None,
    load: Annotated[float, typer.Option(help="Arrivals as a share of what the engines can do.")] = 1.2,
    duration: Annotated[
        float, typer.Option(min=1.0, max=120.0, help="Seconds in which requests arrive.")
    ] = 60.0,
    limit: Annotated[
        float, typer.Option(min=10.0, max=175.0, help="It ends after so many seconds, whatever is left.")
    ] = 170.0,
    seed: Annotated[int, typer.Option(min=0, help="Which draw, or window of the trace.")] = 0,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the proxy and its dashboard; 0 for a free one.")
    ] = 0,
) -> None:
    """Show a policy against round robin, live: emulated engines, the proxy, its dashboard and a load on both.

    Each of the two policies has four engines of its own, and gets the same requests at the same moments. Nobody but the
    engines knows how long answers will be. It ends by itself within three minutes.
    """
    for module in ("aiohttp", "prometheus_client"):
        require(module, extra="serve", purpose="irouter demo")
    if choice_of(policy).label == _AGAINST:
        raise IrouterError(
            f"--policy {policy}: expected another one than {_AGAINST}, which it is shown against"
        )
    if not 0 < load < math.inf:
        raise IrouterError(f"--load {load}: expected a positive number")
    try:
        asyncio.run(
            _run(policy, trace=trace, load=load, duration_s=duration, limit_s=limit, seed=seed, port=port)
        )
    except asyncio.CancelledError as error:
        raise typer.Exit(_TERMINATED) from error


async def _run(
    policy: str, *, trace: Path | None, load: float, duration_s: float, limit_s: float, seed: int, port: int
) -> None:
    from irouter.serving.demo.load import PairedLoad  # noqa: PLC0415 - needs the extra
    from irouter.serving.demo.processes import Processes  # noqa: PLC0415 - with the other
    from irouter.serving.demo.workload import INSTANCES, demo_profile, demo_workload  # noqa: PLC0415 - as well

    ends_s = time.monotonic() + limit_s
    task = asyncio.current_task()
    if task is not None:
        with contextlib.suppress(NotImplementedError):  # there are no signals on Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with tempfile.TemporaryDirectory(prefix="irouter-demo-") as name:
        folder = Path(name)
        profile = folder / "engine.json"
        profile.write_text(json.dumps(demo_profile()), encoding="utf-8")
        workload = demo_workload(profile, trace=trace, load=load, duration_s=duration_s, seed=seed)
        lengths = folder / "lengths.json"
        lengths.write_text(json.dumps(workload.lengths), encoding="utf-8")
        models = (choice_of(policy).label, _AGAINST)
        async with Processes(folder) as processes:
            engine = ("engine", "--port", "0", "--profile", str(profile), "--lengths", str(lengths))
            with out.status("starting the engines"):
                urls = await asyncio.gather(
                    *(processes.start(*engine, "--chunk-tokens", "16") for _ in range(2 * INSTANCES))
                )
                config = folder / "proxy.toml"
                config.write_text(
                    _config(str(profile), dict(zip(models, (policy, _AGAINST), strict=True)), urls)
                )
                url = await processes.start("serve", "--config", str(config), "--port", str(port))
            out.print(
                f"{len(workload.requests):,} requests in {duration_s:g} s for each of two policies with "
                f"{INSTANCES} engines; the dashboard is at {url}/dashboard",
                highlight=False,
                soft_wrap=True,
            )
            await _watch(PairedLoad((url,), workload.requests, models), ends_s)


async def _watch(load: "PairedLoad", ends_s: float) -> None:
    """Runs the load under a live table, until it is done or time is up."""
    running = asyncio.create_task(load.run())
    try:
        with Live(_table(load), console=out, auto_refresh=False) as live:
            while not running.done() and time.monotonic() < ends_s:
                await asyncio.wait({running}, timeout=_REFRESH_S)
                live.update(_table(load), refresh=True)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    if not load.pairs:
        raise IrouterError("no request has finished under both policies, expected more time: --limit")
    if not all(figures.sent == figures.finished for figures in load.figures().values()):
        out.print("time was up before all requests had finished; figures are of those that both have")


def _table(load: "PairedLoad") -> Table:
    table = plain_table(f"{load.pairs:,} requests that both have finished, times in seconds")
    table.add_column("policy")
    for heading in ("sent", "finished", "failed", "E2E mean", "P99", "TTFT mean", "P99"):
        table.add_column(heading, justify="right")
    figures = load.figures()
    times = {
        model: (entry.e2e_mean_s, entry.e2e_p99_s, entry.ttft_mean_s, entry.ttft_p99_s)
        for model, entry in figures.items()
    }
    for model, entry in figures.items():
        counts = (entry.sent, entry.finished, entry.failed)
        table.add_row(model, *(f"{count:,}" for count in counts), *(_number(value) for value in times[model]))
    first, second = times.values()
    ratios = [_number(one / other if other else math.nan) for one, other in zip(first, second, strict=True)]
    table.add_row(" / ".join(figures), "", "", "", *ratios, style="bold")
    return table


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _config(profile: str, policies: dict[str, str], urls: list[str]) -> str:
    """The proxy's settings: a model for each policy, with its share of the engines."""
    lines = [f"profile = {json.dumps(profile)}", "drain_s = 1", "shadow_interval_s = 5"]
    for number, (model, policy) in enumerate(policies.items()):
        lines += ["[[models]]", f"name = {json.dumps(model)}", f"policy = {json.dumps(policy)}"]
        for url in urls[number :: len(policies)]:
            lines += ["[[instances]]", f'url = "{url}"', f"model = {json.dumps(model)}"]
    return "\n".join(lines) + "\n"
