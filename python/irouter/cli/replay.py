"""`irouter replay`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from irouter._core import IrouterError
from irouter.cli import options
from irouter.cli.console import err, out
from irouter.serving.replay import Shadow
from irouter.serving.replay import replay as feed

EXAMPLES = """[bold]Examples[/bold]

irouter replay decisions.jsonl

irouter replay decisions.jsonl --policies "least_requests,central_shortest(ageing=0.05)"
"""


def replay(
    log: Annotated[
        Path,
        typer.Argument(
            help="Decision log of a live router: its option [bold]log[/bold].", show_default=False
        ),
    ],
    *,
    policies: Annotated[
        str | None,
        typer.Option(help="Policies to ask what they would have done, by commas.", show_default=False),
    ] = None,
) -> None:
    """Feed a decision log back: the same decisions, bit for bit, and what other policies would have done."""
    if not log.is_file():
        raise IrouterError(f"no file {log}")
    with err.status("replaying"):
        result = feed(log, shadows=options.names(policies) or ())
    dispatches, holds = f"{result.dispatches:,} dispatches", f"{result.holds:,} holds"
    out.print(f"{result.policy}: {result.requests:,} requests, {dispatches}, {holds}", highlight=False)
    if result.shadows:
        out.print(_table(result.shadows))
    if not result.complete:
        out.print("the log ends before its router did", highlight=False)
    if result.difference is not None:
        raise IrouterError(f"the replay differs: {result.difference}")
    out.print("every decision is the same", highlight=False)


def _table(shadows: tuple[Shadow, ...]) -> Table:
    table = Table("policy", title="What other policies would have done")
    for column in ("same", "other instance", "other request", "would hold", "would send"):
        table.add_column(column, justify="right")
    for shadow in shadows:
        counts = (shadow.same, shadow.elsewhere, shadow.other_request, shadow.held, shadow.sent)
        table.add_row(shadow.policy, *(f"{count:,}" for count in counts))
    return table
