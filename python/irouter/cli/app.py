"""The commands, put together."""

import typer

from irouter import __version__
from irouter.cli import (
    bench,
    calibrate,
    capacity,
    compare,
    daemon,
    demo,
    engine,
    listing,
    predictor,
    replay,
    reproduce,
    serve,
    simulate,
    train,
    tune,
)
from irouter.cli.console import out

app = typer.Typer(
    name="irouter",
    help="Compare policies that route LLM requests, on real traces and generated workloads.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=compare.EXAMPLES)(compare.compare)
app.command(epilog=capacity.EXAMPLES)(capacity.capacity)
app.command(epilog=simulate.EXAMPLES)(simulate.simulate)
app.command(epilog=calibrate.EXAMPLES)(calibrate.calibrate)
app.command(epilog=tune.EXAMPLES)(tune.tune)
app.command(epilog=train.EXAMPLES)(train.train)
app.command(epilog=replay.EXAMPLES)(replay.replay)
app.command(epilog=serve.EXAMPLES)(serve.serve)
app.command(epilog=daemon.EXAMPLES)(daemon.daemon)
app.command(epilog=engine.EXAMPLES)(engine.engine)
app.command(epilog=demo.EXAMPLES)(demo.demo)
app.command()(listing.scenarios)
app.command()(listing.policies)
app.add_typer(bench.app, name="bench")
app.add_typer(predictor.app, name="predictor")
app.add_typer(reproduce.reproduce, name="reproduce")
app.add_typer(listing.profiles, name="profiles")


def _version(asked: bool) -> None:
    if asked:
        out.print(f"irouter {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_version, is_eager=True
    ),
) -> None:
    """Compare policies that route LLM requests, on real traces and generated workloads."""
