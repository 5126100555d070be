"""`irouter bench`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from irouter import bench
from irouter._core import IrouterError
from irouter.cli import bench_tables, options
from irouter.cli.console import out, progress, written
from irouter.evaluation.executors import cluster

EXAMPLES = """[bold]Examples[/bold]

irouter bench run --quick

irouter bench run --traces traces/ --json result.json --html report.html

irouter bench run --policies "least_work,central_shortest(ageing=0.05)" --points conversation-0.9,paper-main
"""

DIFFERENT = 1
"""Exit code of `verify` and `diff` where something differs."""

app = typer.Typer(help="The benchmark that LLM routers are compared with.", no_args_is_help=True)

_Traces = Annotated[
    Path | None,
    typer.Option(
        "--traces",
        help="Folder with the traces; points without theirs are skipped and listed.",
        metavar="FOLDER",
        show_default=False,
    ),
]
_SuiteName = Annotated[str, typer.Option("--suite", help="A shipped suite or a .toml file.")]
_ResultFile = Annotated[Path, typer.Argument(help="A result of [bold]irouter bench run --json[/bold].")]


@app.command(epilog=EXAMPLES)
def run(
    suite: _SuiteName = "v1",
    policies: Annotated[
        str | None,
        typer.Option(help="Policies, with commas, in place of the suite's.", show_default=False),
    ] = None,
    points: Annotated[
        str | None,
        typer.Option(help="Points or sweeps, with commas; all of the suite without it.", show_default=False),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few and short windows: minutes.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="As many windows of slow policies as of others.")
    ] = False,
    traces: _Traces = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the result here.", show_default=False)
    ] = None,
    html_file: options.HtmlFile = None,
    threads: options.Threads = 0,
    ray: options.Ray = None,
) -> None:
    """Measure policies at the points of a suite."""
    if quick and full:
        raise IrouterError("--quick with --full: expected one of the two")
    options.need_folders(json_file, html_file)
    with cluster(ray) as executor, progress("simulating") as report:
        result = bench.run(
            suite,
            policies=options.names(policies),
            points=options.names(points),
            mode="quick" if quick else "full" if full else "standard",
            traces=traces,
            threads=threads,
            executor=executor,
            progress=report,
        )
    if json_file is not None:
        result.write(json_file)
        written("result", json_file)
    if html_file is not None:
        result.write_html(html_file)
        written("report", html_file)
    bench_tables.print_result(result)


@app.command()
def verify(
    result: _ResultFile,
    suite: Annotated[
        str | None,
        typer.Option(help="The suite, in place of the one that the result names.", show_default=False),
    ] = None,
    traces: _Traces = None,
    sample: Annotated[int, typer.Option(min=1, help="Runs to repeat of each policy.")] = 1,
    threads: options.Threads = 0,
) -> None:
    """Check a result and repeat some of its runs; exit with 1 where anything differs."""
    loaded = bench.read(result)
    with progress("verifying") as report:
        verification = bench.verify(
            loaded, suite=suite, traces=traces, sample=sample, threads=threads, progress=report
        )
    for remark in verification.remarks:
        out.print(f"[dim]{escape(remark)}[/dim]", highlight=False)
    if verification.differences:
        bench_tables.print_differences(verification.differences, "in the result", "verified")
        raise typer.Exit(DIFFERENT)
    policies = {policy for _, policy, _ in verification.cells}
    out.print(
        f"{result.name} holds: digest {loaded.data['digest'][:12]}, {len(loaded.points)} points, "
        f"{len(verification.cells)} runs of {len(policies)} policies repeated with the same figures",
        highlight=False,
    )


@app.command()
def diff(one: _ResultFile, other: _ResultFile) -> None:
    """Print the figures by which two results differ; exit with 1 where there are any."""
    differences = bench.diff(bench.read(one), bench.read(other))
    if differences:
        bench_tables.print_differences(differences, one.name, other.name)
        raise typer.Exit(DIFFERENT)
    out.print(f"{one.name} and {other.name} have the same figures", highlight=False)


@app.command()
def report(
    result: _ResultFile,
    html_file: Annotated[Path, typer.Option("--html", help="Write the page here.", show_default=False)],
) -> None:
    """Write the report of a result as a page."""
    options.need_folders(html_file)
    bench.read(result).write_html(html_file)
    written("report", html_file)
