"""`irouter simulate`."""

from pathlib import Path
from typing import Annotated

import typer

from irouter import evaluation
from irouter._core import IrouterError
from irouter.cli import options
from irouter.cli.console import err, written

EXAMPLES = """[bold]Examples[/bold]

irouter simulate conversation --policy least_requests --out requests.parquet

irouter simulate azure-conv --trace conv.csv --policy central_shortest --load 1.0 --out requests.parquet
"""


def simulate(
    scenario: options.Scenario = None,
    *,
    policy: Annotated[
        str, typer.Option(help="The policy to run.", rich_help_panel="Routing", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Write the requests to this Parquet file.", rich_help_panel="Output", show_default=False
        ),
    ],
    trace: options.TraceFile = None,
    rate: options.Rate = None,
    load: options.Load = None,
    requests: options.Requests = None,
    seed: Annotated[
        int | None, typer.Option(help="The seed.", rich_help_panel="Workload", min=0, show_default=False)
    ] = None,
    drop_too_long: options.DropTooLong = False,
    drop_empty: options.DropEmpty = False,
    assignments: options.Set = None,
    profile: options.ProfileName = None,
    instances: options.Instances = None,
    conditions: options.Conditions = None,
    step_noise: options.StepNoise = None,
    predictor: options.Predictor = None,
    router_profile: options.RouterProfile = None,
) -> None:
    """Run one policy on one seed and write what became of each request."""
    settings = options.settings(
        assignments=assignments,
        slo_ttft=None,
        slo_tpot=None,
        drop_too_long=drop_too_long,
        rate=rate,
        load=load,
        requests=requests,
        first_seed=seed,
        profile=profile,
        instances=instances,
        conditions=conditions,
        step_noise=step_noise,
        predictor=predictor,
        router_profile=router_profile,
    )
    if out.suffix != ".parquet":
        raise IrouterError(f"--out {out}: expected a file that ends in .parquet")
    options.need_folders(out)
    read = options.read(trace, drop_empty=drop_empty)
    with err.status("simulating"):
        run = evaluation.simulate(scenario, policy=policy, trace=read, **settings)
        run.to_polars().write_parquet(out)
    written(f"{len(run)} requests", out)
