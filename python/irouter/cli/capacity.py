"""`irouter capacity`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from irouter import evaluation
from irouter.cli import options, tables
from irouter.cli.console import out, progress, written
from irouter.evaluation import presentation

EXAMPLES = """[bold]Examples[/bold]

irouter capacity conversation --policies "least_requests,central_shortest"

irouter capacity azure-conv --trace conv.parquet --requests 3000 --json capacity.json

irouter capacity conversation --target 0.9 --slo-ttft 1.0 --slo-tpot 0.05
"""


def capacity(
    scenario: options.Scenario = None,
    trace: options.TraceFile = None,
    requests: options.Requests = None,
    drop_too_long: options.DropTooLong = False,
    drop_empty: options.DropEmpty = False,
    assignments: options.Set = None,
    profile: options.ProfileName = None,
    instances: options.Instances = None,
    conditions: options.Conditions = None,
    step_noise: options.StepNoise = None,
    policies: options.Policies = None,
    reference: options.Reference = None,
    predictor: options.Predictor = None,
    router_profile: options.RouterProfile = None,
    windows: Annotated[
        int,
        typer.Option(
            min=1, help="Windows, each with a search of its own.", rich_help_panel="Search", show_default=True
        ),
    ] = 5,
    probes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Loads that are tried per policy and window; each halves what is uncertain.",
            rich_help_panel="Search",
        ),
    ] = 7,
    target: Annotated[
        float,
        typer.Option(help="Share of the requests that must meet the SLO.", rich_help_panel="Search"),
    ] = 0.99,
    slo_ttft: options.SloTtft = None,
    slo_tpot: options.SloTpot = None,
    json_file: options.JsonFile = None,
    threads: options.Threads = 0,
) -> None:
    """Find the highest arrival rate at which each policy still meets the SLO."""
    settings = options.settings(
        assignments=assignments,
        slo_ttft=slo_ttft,
        slo_tpot=slo_tpot,
        drop_too_long=drop_too_long,
        requests=requests,
        profile=profile,
        instances=instances,
        conditions=conditions,
        step_noise=step_noise,
        policies=options.names(policies),
        reference=reference,
        predictor=predictor,
        router_profile=router_profile,
    )
    options.need_folders(json_file)
    read = options.read(trace, drop_empty=drop_empty)
    with progress("probing") as report:
        found = evaluation.capacity(
            scenario,
            windows=windows,
            probes=probes,
            target=target,
            trace=read,
            threads=threads,
            progress=report,
            **settings,
        )
    if json_file == Path("-"):
        out.file.write(found.to_json())
        return
    if json_file is not None:
        found.write_json(json_file)
        written("figures", json_file)
    _print(found)


def _print(found: evaluation.Capacity) -> None:
    settings = found.experiment.settings
    facts = (
        found.experiment.name,
        f"{settings['instances']} x {settings['profile']}",
        f"predictor {presentation.predictor(found.predictor)}",
        f"{found.experiment.conditions} conditions",
        f"{settings['seeds']} windows",
    )
    out.print(Text(" · ".join(facts), style="bold"))
    out.print(Text(f"  saturation: {found.saturation_rate:.2f} requests/s", style="dim"))
    table = tables.policy_table(
        f"Highest rate at which {found.target:.1%} of the requests meet the SLO",
        found.policies,
        ("requests/s", "95 % interval", "load", "goodput there", f"rate / {found.experiment.reference}"),
    )
    for name, figures in sorted(found.policies.items(), key=lambda item: (-item[1].rate, item[0])):
        low, high = figures.ci95
        table.add_row(
            name,
            f"{figures.rate:,.2f}",
            "-" if low is None or high is None else f"[{low:,.2f}, {high:,.2f}]",
            f"{figures.load:.3f}",
            "-" if figures.goodput is None else f"{figures.goodput:.2%}",
            presentation.ratio(list(figures.ratio)),
            style="dim" if name == found.experiment.reference else "",
        )
    out.print()
    out.print(table)
