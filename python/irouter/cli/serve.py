"""`irouter serve`."""

import contextlib
import logging
import ssl
import sys
from pathlib import Path
from typing import Annotated

import typer

from irouter._core import IrouterError
from irouter._extras import require
from irouter.cli.console import out
from irouter.prediction import PredictorService, load

EXAMPLES = """[bold]Examples[/bold]

irouter serve --instance http://10.0.0.1:8000 --instance http://10.0.0.2:8000 --port 8080

irouter serve --config proxy.toml --policy ordered_hold

irouter serve --config proxy.toml --daemon /run/irouter.sock --reuse-port
"""


def serve(
    *,
    instance: Annotated[
        list[str] | None,
        typer.Option(
            help="Base URL of an engine; once for each. In place of those of the file.", show_default=False
        ),
    ] = None,
    dns: Annotated[
        list[str] | None,
        typer.Option(
            help="http://NAME:PORT with an engine at each address of the name, which is asked again and again.",
            show_default=False,
        ),
    ] = None,
    instances_file: Annotated[
        Path | None,
        typer.Option(help="TOML file of instances, read again when it changes.", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port; 8080 without it, 0 for a free one.", show_default=False),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on; 127.0.0.1 without it. Others need an API key.", show_default=False
        ),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="The policy.", show_default=False)] = None,
    predictor: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a trained predictor; without it, output lengths are learned from what finishes.",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="What the engines are like: a profile or a .json file.", show_default=False),
    ] = None,
    daemon: Annotated[
        Path | None,
        typer.Option(help="Socket of the irouter daemon that decides.", show_default=False),
    ] = None,
    reuse_port: Annotated[
        bool, typer.Option("--reuse-port", help="Let several processes listen on the port.")
    ] = False,
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
        Path | None, typer.Option(help="TOML file of settings (docs/serve.md).", show_default=False)
    ] = None,
) -> None:
    """Run the reference proxy: the OpenAI API in front of several engines."""
    for module in ("aiohttp", "prometheus_client"):
        require(module, extra="serve", purpose="irouter serve")
    from irouter.serving.http_server import run, serve_app  # noqa: PLC0415 - needs the extra
    from irouter.serving.proxy import make_app, read_config  # noqa: PLC0415 - needs the extra
    from irouter.serving.proxy.journal import LOGGER, JsonFormatter  # noqa: PLC0415 - with the others

    changes = {
        "instances": instance,
        "dns": dns,
        "instances_file": None if instances_file is None else str(instances_file),
        "port": port,
        "host": host,
        "policy": policy,
        "predictor": None if predictor is None else str(predictor),
        "profile": profile,
        "daemon": None if daemon is None else str(daemon),
        "poll_s": poll_seconds,
        "reuse_port": reuse_port or None,
        "decision_log": None if decision_log is None else str(decision_log),
    }
    settings = read_config(config, changes)
    tls = None
    if settings.tls_certificate is not None and settings.tls_key is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            tls.load_cert_chain(settings.tls_certificate, settings.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise IrouterError(f"tls_certificate {settings.tls_certificate}: {error}") from error
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False

    async def main(predictors: dict[str, PredictorService]) -> None:
        app, proxy = make_app(settings, predictors=predictors)

        def ready(url: str) -> None:
            for model, pool in proxy.pools.items():
                what = pool.config.policy if model is None else f"{model}: {pool.config.policy}"
                out.print(
                    f"{what} over {len(pool.instances)} instances at {url}", highlight=False, soft_wrap=True
                )
            if settings.dashboard_is_there:
                out.print(f"dashboard at {url}/dashboard", highlight=False, soft_wrap=True)

        await serve_app(
            app,
            host=settings.host,
            port=settings.port,
            ready=ready,
            drain=proxy.drain,
            tls=tls,
            reuse_port=settings.reuse_port,
        )

    with contextlib.ExitStack() as stack:
        folders = {pool.predictor for pool in settings.pools if pool.predictor is not None}
        predictors = {
            folder: stack.enter_context(PredictorService(load(folder))) for folder in sorted(folders)
        }
        run(main(predictors))
