"""`irouter tune`."""

from pathlib import Path
from typing import Annotated

import typer

from irouter.cli import options
from irouter.cli.console import out, progress, written
from irouter.evaluation import tuned, tuning
from irouter.evaluation.executors import cluster

EXAMPLES = """[bold]Examples[/bold]

irouter tune central_shortest

irouter tune smg_least_load --scenario conversation --loads 0.9 --budget 2000000 --out tuned.toml
"""


def tune(
    policy: Annotated[str, typer.Argument(help="The policy whose constants to search.", show_default=False)],
    scenarios: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            help=f"Train on this generated scenario; give it again for more. [default: {', '.join(tuning.TRAINING)}]",
            rich_help_panel="Workload",
            show_default=False,
        ),
    ] = None,
    loads: Annotated[
        str, typer.Option(help="Loads at which each runs.", rich_help_panel="Workload")
    ] = ",".join(map(str, tuning.LOADS)),
    budget: Annotated[
        int, typer.Option(help="Simulated requests of the search.", rich_help_panel="Search", min=1)
    ] = tuning.BUDGET,
    seed: Annotated[int, typer.Option(help="Seed of the search.", rich_help_panel="Search", min=0)] = 0,
    file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Set the policy's entry in this TOML file.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    threads: options.Threads = 0,
    ray: options.Ray = None,
) -> None:
    """Search the constants of a policy on training workloads."""
    options.need_folders(file)
    with cluster(ray) as executor, progress("simulated requests") as report:
        found = tuning.tune(
            policy,
            scenarios or tuning.TRAINING,
            loads=options.loads(loads) or (),
            budget=budget,
            seed=seed,
            threads=threads,
            executor=executor,
            progress=report,
        )
    out.print(f"[bold]{found.policy}[/bold] on {', '.join(found.workloads)}")
    out.print(
        f"objective on held-out windows {found.objective:.4f}, with the defaults {found.default_objective:.4f} "
        f"(0 is round robin, lower is better); {found.requests:,} requests",
        highlight=False,
    )
    if not found.constants:
        out.print("the defaults stay: nothing better was found")
    for name, value in found.constants.items():
        out.print(f"  {name} = {value}", highlight=False)
    if file is not None:
        tuned.write(file, found.policy, found.to_entry())
        written("constants", file)
