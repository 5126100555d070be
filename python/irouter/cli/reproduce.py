"""`irouter reproduce`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from irouter.cli import options
from irouter.cli.console import out, plain_table, progress, written
from irouter.evaluation import Comparison
from irouter.reproduction import pages, words
from irouter.reproduction.paper import Reproduction, Setup
from irouter.reproduction.paper import paper as run_paper

EXAMPLES = """[bold]Examples[/bold]

irouter reproduce paper

irouter reproduce paper --seeds 3 --html paper.html --markdown paper.md

irouter reproduce paper --agents agents/
"""

reproduce = typer.Typer(help="Published experiments, run again.", no_args_is_help=True)


def _file(name: str, what: str) -> Any:
    return typer.Option(name, help=f"Write {what} here.", rich_help_panel="Output", show_default=False)


@reproduce.command(epilog=EXAMPLES)
def paper(
    *,
    seeds: Annotated[
        int | None, typer.Option(help="Seeds in place of 20.", min=1, show_default=False)
    ] = None,
    agents: Annotated[
        Path | None,
        typer.Option(
            help="Folder with trained agents of the paper, to run beside the rest.", show_default=False
        ),
    ] = None,
    json_file: Annotated[Path | None, _file("--json", "the figures")] = None,
    html_file: Annotated[Path | None, _file("--html", "a page with plots")] = None,
    markdown_file: Annotated[Path | None, _file("--markdown", "the tables")] = None,
    threads: options.Threads = 0,
) -> None:
    """The experiments of Jain et al. (arXiv 2408.13510), beside the printed gains."""
    wanted = ((json_file, Reproduction.to_json), (html_file, pages.html), (markdown_file, pages.markdown))
    options.need_folders(*(file for file, _ in wanted))
    with progress("simulating") as report:
        reproduction = run_paper(seeds=seeds, agents=agents, threads=threads, progress=report)
    for setup, comparison in reproduction.experiments:
        _print(setup, comparison)
    for file, text in wanted:
        if file is not None:
            file.write_text(text(reproduction), "utf-8")
            written("written", file)


def _print(setup: Setup, comparison: Comparison) -> None:
    for title, point, printed in words.points(setup, comparison):
        out.print()
        out.print(title, style="bold")
        out.print(words.situation(setup, comparison, point), style="dim", highlight=False)
        table = plain_table()
        for index, heading in enumerate(words.HEADINGS):
            table.add_column(heading, justify="right" if index else "left")
        for row in words.rows(point, printed):
            table.add_row(row.policy, *row.cells())
        out.print(table)
    if setup.agents:
        out.print(words.agents(setup), style="dim", highlight=False)
