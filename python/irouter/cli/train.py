"""`irouter train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from irouter import training
from irouter._core import IrouterError
from irouter.cli import options, train_fleet
from irouter.cli.console import out, progress, written
from irouter.evaluation.executors import cluster
from irouter.evaluation.objective import Goal
from irouter.training import paper_agents
from irouter.training.generated import GENERATIONS

EXAMPLES = """[bold]Examples[/bold]

irouter train --scenario paper-main --tail-limit 0.93 --out paper.safetensors

irouter train --objective ttft --minutes 30 --out ttft.safetensors

irouter train --from-log requests.csv --profile llama-3.1-8b@h100 --instances 4 --out policy.safetensors

irouter train --agent workload-guided --out agents/

irouter compare paper-main --policies 'guided(weights="paper.safetensors"),ordered_hold'
"""

Agent = Literal["baseline", "workload-aware", "workload-guided"]

_FLEET = "Fleet"
_AGENT = "The paper's agents"


def train(
    file: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Write the weights here: a file, or a folder with [bold]--agent[/bold].",
            rich_help_panel="Output",
            show_default=False,
        ),
    ],
    *,
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
    log: Annotated[
        Path | None,
        typer.Option(
            "--from-log",
            help="Train for the fleet that this log is of: a router's decision log, or CSV, Parquet or JSONL with "
            "[bold]timestamp, prompt_tokens, output_tokens[/bold] and, where known, [bold]ttft_seconds, e2e_seconds, "
            "instance, app[/bold].",
            rich_help_panel=_FLEET,
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="What the instances are; needed where the log has no latencies.",
            rich_help_panel=_FLEET,
            show_default=False,
        ),
    ] = None,
    instances: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many there are; needed where the log does not say.",
            rich_help_panel=_FLEET,
            show_default=False,
        ),
    ] = None,
    predictor: Annotated[
        str | None,
        typer.Option(
            help="Where predicted lengths come from; what the log has, else its history, without.",
            rich_help_panel=_FLEET,
            show_default=False,
        ),
    ] = None,
    drop_empty: options.DropEmpty = False,
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
            help="P99 E2E over least_work's, with --from-log round robin's, up to which the tail costs nothing; "
            "with ttft, P99 TTFT as well.",
            rich_help_panel="Search",
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
    start_weight: Annotated[
        float,
        typer.Option(
            help="What P99 TTFT counts beside the objective, from 0.", rich_help_panel="Search", min=0.0
        ),
    ] = 0.0,
    loss_weight: Annotated[
        float,
        typer.Option(
            help="What a figure above the reference's counts more, from 0.",
            rich_help_panel="Search",
            min=0.0,
        ),
    ] = 0.0,
    slo_ttft: options.SloTtft = None,
    slo_tpot: options.SloTpot = None,
    hidden: Annotated[
        int,
        typer.Option(help="Units of the hidden layer; 0 is a linear score.", rich_help_panel="Search", min=0),
    ] = 0,
    generations: Annotated[
        int | None,
        typer.Option(
            help=f"Generations, of 16 candidates each; {GENERATIONS} without a budget.",
            rich_help_panel="Search",
            min=0,
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Budget in minutes; 10 with [bold]--from-log[/bold].",
            rich_help_panel="Search",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the search.", rich_help_panel="Search", min=0)] = 0,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Start from these weights, in place of the rule.",
            rich_help_panel="Search",
            show_default=False,
        ),
    ] = None,
    agent: Annotated[
        Agent | None,
        typer.Option(
            help="Train one of the paper's agents on one scenario, paper-main without.",
            rich_help_panel=_AGENT,
            show_default=False,
        ),
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(min=1, help="Episodes of an agent.", rich_help_panel=_AGENT, show_default=False),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Requests of an episode, in place of the scenario's.",
            rich_help_panel=_AGENT,
            show_default=False,
        ),
    ] = None,
    threads: options.Threads = 0,
    ray: options.Ray = None,
) -> None:
    """Train weights of the policy [bold]guided[/bold], or one of the paper's agents.

    The learning curve is kept beside the weights; the same command again goes on where it was interrupted. With
    [bold]--from-log[/bold], weights that are not better than what there is, on the later part of the log, are refused,
    with exit status 3.
    """
    slo = {key: value for key, value in (("ttft_s", slo_ttft), ("tpot_s", slo_tpot)) if value is not None}
    of_search: dict[str, Any] = {
        "goal": objective,
        "tail_limit": tail_limit,
        "miss_weight": miss_weight,
        "start_weight": start_weight,
        "loss_weight": loss_weight,
        "slo": slo or None,
        "loads": options.loads(loads) if loads else None,
        "generations": generations,
        "minutes": minutes,
        "seed": seed,
        "threads": threads,
    }
    of_fleet: dict[str, Any] = {
        "profile": profile,
        "instances": instances,
        "predictor": predictor,
        "drop_empty": drop_empty,
    }
    of_generated = {"scenario": scenarios, "start": start, "hidden": hidden}
    of_agent = {"episodes": episodes, "requests": requests}
    if agent is not None:
        own = {
            "scenario": None,
            "from-log": log,
            "loads": loads,
            "minutes": minutes,
            "generations": generations,
        }
        _refuse("--agent", {**of_generated, **of_fleet, **own})
        _train_agent(agent, file, scenarios or [], seed, of_agent)
        return
    _refuse("training without --agent", of_agent)
    options.need_folders(file)
    with cluster(ray) as executor, progress("generations") as report:
        of_search |= {"executor": executor, "progress": report}
        if log is None:
            _refuse("training without --from-log", of_fleet)
            first = None if start is None else training.read_weights(start)
            record = file.with_suffix(".jsonl")
            layers = [hidden] if hidden else ()
            trained = training.train(scenarios or (), hidden=layers, start=first, journal=record, **of_search)
        else:
            _refuse("--from-log", of_generated)
            found = training.train_from_log(log, file, **of_fleet, **of_search)
    if log is None:
        _show(trained, file)
        return
    train_fleet.show(found, file)
    if not found.verdict.accepted:
        raise typer.Exit(train_fleet.REFUSED)


def _show(trained: training.Trained, file: Path) -> None:
    file.write_bytes(trained.to_bytes())
    out.print(
        f"objective on held-out workloads {trained.objective:.4f}, at the start {trained.start_objective:.4f} "
        f"(0 is least_work, lower is better); {trained.header['requests']:,} requests",
        highlight=False,
    )
    if trained.objective == trained.start_objective:
        out.print("the start stays: nothing better was found")
    written("weights", file)


def _refuse(what: str, given: Mapping[str, object]) -> None:
    """Raises for the first option that means nothing there.

    Raises:
        IrouterError: Naming it.
    """
    for name, value in given.items():
        if value:
            raise IrouterError(f"--{name.replace('_', '-')} has no meaning for {what}")


def _train_agent(
    agent: Agent, folder: Path, scenarios: list[str], seed: int, given: dict[str, int | None]
) -> None:
    if len(scenarios) > 1:
        raise IrouterError(f"--agent with {len(scenarios)} scenarios, expected one at most")
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if scenarios:
        changes["scenario"] = scenarios[0]

    def say(line: str) -> None:
        out.print(line, highlight=False)

    best, file = paper_agents.train_file(agent, folder, log=say, seed=seed, **changes)
    say(f"episode {best.episode} is kept: mean E2E {best.ratio:.3f} of round robin")
    written("weights", file)
