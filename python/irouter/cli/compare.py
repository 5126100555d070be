"""`irouter compare`."""

from pathlib import Path
from typing import Annotated

import typer

from irouter import evaluation
from irouter.cli import options, tables
from irouter.cli.console import out, progress, written
from irouter.evaluation.executors import cluster

EXAMPLES = """[bold]Examples[/bold]

irouter compare conversation

irouter compare --trace AzureLLMInferenceTrace_conv.csv --instances 4 --load 0.9 --seeds 20

irouter compare paper-main --policies "min_min,central_shortest(ageing=0.05)" --html report.html

irouter compare conversation --set "clients={count=200, think_time_s=5.0}" --set "router_profile_error={step_time=1.4}"

irouter compare azure-conv --trace conv.parquet --sweep 0.3:1.2:0.1 --json figures.json --html report.html
"""


def compare(
    scenario: options.Scenario = None,
    trace: options.TraceFile = None,
    rate: options.Rate = None,
    load: options.Load = None,
    requests: options.Requests = None,
    seeds: options.Seeds = None,
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
    sweep: Annotated[
        str | None,
        typer.Option(
            help="Compare at these loads as well: FROM:TO:STEP.",
            rich_help_panel="Output",
            metavar="LOADS",
            show_default=False,
        ),
    ] = None,
    slo_ttft: options.SloTtft = None,
    slo_tpot: options.SloTpot = None,
    json_file: options.JsonFile = None,
    html_file: options.HtmlFile = None,
    threads: options.Threads = 0,
    ray: options.Ray = None,
) -> None:
    """Compare policies on the same arrivals."""
    settings = options.settings(
        assignments=assignments,
        slo_ttft=slo_ttft,
        slo_tpot=slo_tpot,
        drop_too_long=drop_too_long,
        rate=rate,
        load=load,
        requests=requests,
        seeds=seeds,
        profile=profile,
        instances=instances,
        conditions=conditions,
        step_noise=step_noise,
        policies=options.names(policies),
        reference=reference,
        predictor=predictor,
        router_profile=router_profile,
        sweep=options.loads(sweep),
    )
    options.need_folders(json_file, html_file)
    read = options.read(trace, drop_empty=drop_empty)
    with cluster(ray) as executor, progress("simulating") as report:
        comparison = evaluation.compare(
            scenario, trace=read, threads=threads, executor=executor, progress=report, **settings
        )
    to_standard_output = json_file == Path("-")
    if json_file is not None and not to_standard_output:
        comparison.write_json(json_file)
        written("figures", json_file)
    if html_file is not None:
        comparison.write_html(html_file)
        written("report", html_file)
    if to_standard_output:
        out.file.write(comparison.to_json())
    else:
        tables.print_comparison(comparison)
