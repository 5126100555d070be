"""`irouter engine`."""

from pathlib import Path
from typing import Annotated

import typer

from irouter._core import IrouterError
from irouter._extras import require
from irouter.cli.console import out

EXAMPLES = """[bold]Examples[/bold]

irouter engine --profile llama-3.1-8b@h100 --port 8001

irouter engine --profile llama-2-7b@v100-paper --port 8001 --speed 4 --lengths lengths.json
"""
_FAULTS = "Faults"


def engine(
    *,
    profile: Annotated[
        str, typer.Option(help="Profile to be like: a shipped one or a .json file.", show_default=False)
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    served_model_name: Annotated[
        str | None, typer.Option(help="The one model that it serves; any without it.", show_default=False)
    ] = None,
    speed: Annotated[float, typer.Option(help="Times as fast as the profile.")] = 1.0,
    lengths: Annotated[
        Path | None,
        typer.Option(
            help="JSON object of output lengths by key; a prompt names its key as [bold][[irouter-length:KEY]][/bold]. "
            "Other lengths are drawn.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of lengths, noise and faults.")] = 0,
    step_noise: Annotated[float, typer.Option(help="Sigma of log-normal noise on step times.")] = 0.0,
    chunk_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a piece of a streamed answer.")] = 1,
    prompt_tokens_details: Annotated[
        bool, typer.Option("--prompt-tokens-details", help="Tell in the usage what the prefix cache gave.")
    ] = False,
    error_share: Annotated[
        float, typer.Option(help="Share answered with 500.", rich_help_panel=_FAULTS)
    ] = 0.0,
    hang_share: Annotated[float, typer.Option(help="Share never answered.", rich_help_panel=_FAULTS)] = 0.0,
    close_share: Annotated[
        float, typer.Option(help="Share whose connection closes half-way.", rich_help_panel=_FAULTS)
    ] = 0.0,
    garbage_share: Annotated[
        float, typer.Option(help="Share answered with garbage.", rich_help_panel=_FAULTS)
    ] = 0.0,
    slow_factor: Annotated[float, typer.Option(help="Times as slow.", rich_help_panel=_FAULTS)] = 1.0,
    crash_after: Annotated[
        int, typer.Option(min=0, help="Dies at this request; 0: never.", rich_help_panel=_FAULTS)
    ] = 0,
) -> None:
    """Run an emulated instance: the engine model in real time behind the OpenAI API, with vLLM's metrics.

    [bold]POST /faults[/bold] changes the faults while it runs.
    """
    for module in ("aiohttp", "prometheus_client"):
        require(module, extra="serve", purpose="irouter engine")
    from irouter.serving.emulator import EmulatorSettings, Faults, make_app  # noqa: PLC0415 - needs the extra
    from irouter.serving.emulator.lengths import Lengths, read_lengths  # noqa: PLC0415 - with the other
    from irouter.serving.http_server import run, serve_app  # noqa: PLC0415 - needs the extra
    from irouter.serving.instances import LoadedProfile  # noqa: PLC0415 - with the others

    if not 0 < speed < float("inf"):
        raise IrouterError(f"--speed {speed}: expected a positive number")
    settings = EmulatorSettings(
        profile=LoadedProfile(profile),
        lengths=Lengths(seed, None if lengths is None else read_lengths(lengths)),
        model=served_model_name,
        speed=speed,
        seed=seed,
        step_noise=step_noise,
        chunk_tokens=chunk_tokens,
        prompt_tokens_details=prompt_tokens_details,
        faults=Faults(error_share, hang_share, close_share, garbage_share, slow_factor, crash_after),
    )

    def ready(url: str) -> None:
        out.print(f"{settings.profile.name} at {url}", highlight=False, soft_wrap=True)

    run(serve_app(make_app(settings), host=host, port=port, ready=ready))
