"""`irouter train`."""

from pathlib import Path
from typing import Annotated

import typer

from irouter import training
from irouter.cli import options
from irouter.cli.console import out, progress, written
from irouter.evaluation.executors import cluster
from irouter.training.search import Goal

EXAMPLES = """[bold]Examples[/bold]

irouter train --scenario paper-main --tail-limit 0.93 --out paper.safetensors

irouter train --objective ttft --generations 200 --out ttft.safetensors

irouter compare paper-main --policies 'guided(weights="paper.safetensors"),ordered_hold'
"""


def train(
    file: Annotated[
        Path,
        typer.Option("--out", help="Write the weights here.", rich_help_panel="Output", show_default=False),
    ],
    scenarios: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            help="Train on this generated scenario; again for more. Without it, workloads and clusters are drawn.",
            rich_help_panel="Workload",
            show_default=False,
        ),
    ] = None,
    loads: Annotated[
        str | None,
        typer.Option(
            help="Loads at which each runs; as it stands without.",
            rich_help_panel="Workload",
            show_default=False,
        ),
    ] = None,
    objective: Annotated[
        Goal,
        typer.Option(
            help="What is to be best: [bold]e2e[/bold] or [bold]ttft[/bold], the means, or [bold]goodput[/bold].",
            rich_help_panel="Search",
        ),
    ] = "e2e",
    tail_limit: Annotated[
        float,
        typer.Option(
            help="P99 E2E over round robin's up to which the tail costs nothing.", rich_help_panel="Search"
        ),
    ] = 1.0,
    miss_weight: Annotated[
        float,
        typer.Option(
            help="What requests that miss the SLO count beside the objective, from 0.",
            rich_help_panel="Search",
            min=0.0,
        ),
    ] = 0.0,
    hidden: Annotated[
        int,
        typer.Option(help="Units of the hidden layer; 0 is a linear score.", rich_help_panel="Search", min=0),
    ] = 0,
    generations: Annotated[
        int, typer.Option(help="Generations, of 16 candidates each.", rich_help_panel="Search", min=0)
    ] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the search.", rich_help_panel="Search", min=0)] = 0,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Start from these weights, in place of the rule.",
            rich_help_panel="Search",
            show_default=False,
        ),
    ] = None,
    threads: options.Threads = 0,
    ray: options.Ray = None,
) -> None:
    """Train weights of the policy [bold]guided[/bold].

    The learning curve is kept beside the weights; the same command again goes on where it was interrupted.
    """
    options.need_folders(file)
    with cluster(ray) as executor, progress("generations") as report:
        found = training.train(
            scenarios or (),
            goal=objective,
            tail_limit=tail_limit,
            miss_weight=miss_weight,
            loads=options.loads(loads) if loads else None,
            hidden=[hidden] if hidden else (),
            generations=generations,
            seed=seed,
            start=None if start is None else training.read_weights(start),
            threads=threads,
            executor=executor,
            journal=file.with_suffix(".jsonl"),
            progress=report,
        )
    file.write_bytes(found.to_bytes())
    out.print(
        f"objective on held-out workloads {found.objective:.4f}, at the start {found.start_objective:.4f} "
        f"(0 is round robin, lower is better); {found.header['requests']:,} requests",
        highlight=False,
    )
    if found.objective == found.start_objective:
        out.print("the start stays: nothing better was found")
    written("weights", file)
