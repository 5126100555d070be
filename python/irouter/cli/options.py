"""Options that commands share, and what they say as settings."""

import math
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from irouter._core import IrouterError
from irouter.evaluation import Trace, read_trace

_WORKLOAD = "Workload"
_CLUSTER = "Cluster"
_ROUTING = "Routing"
_OUTPUT = "Output"
_COMMAS = re.compile(r",(?![^()]*\))")

Scenario = Annotated[
    str | None,
    typer.Argument(
        help="A shipped scenario ([bold]irouter scenarios[/bold] lists them) or a .toml file.",
        show_default=False,
    ),
]
TraceFile = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        help="Replay this trace: Parquet, CSV or JSONL as Azure, Mooncake or BurstGPT publish them, or with "
        "[bold]arrival_s, input_tokens, output_tokens[/bold].",
        rich_help_panel=_WORKLOAD,
        show_default=False,
    ),
]
DropEmpty = Annotated[
    bool,
    typer.Option(
        "--drop-empty",
        help="Leave out rows without input or output, and count them.",
        rich_help_panel=_WORKLOAD,
    ),
]
DropTooLong = Annotated[
    bool,
    typer.Option(
        "--drop-too-long",
        help="Leave out requests beyond the profile's context, and count them.",
        rich_help_panel=_WORKLOAD,
    ),
]
Rate = Annotated[
    float | None, typer.Option(help="Arrivals per second.", rich_help_panel=_WORKLOAD, show_default=False)
]
Load = Annotated[
    float | None,
    typer.Option(
        help="Arrivals as a share of the cluster's saturation.", rich_help_panel=_WORKLOAD, show_default=False
    ),
]
Requests = Annotated[
    int | None, typer.Option(help="Measured arrivals per run.", rich_help_panel=_WORKLOAD, show_default=False)
]
Seeds = Annotated[
    int | None,
    typer.Option(
        help="Windows of the trace, or draws of the generator.", rich_help_panel=_WORKLOAD, show_default=False
    ),
]
ProfileName = Annotated[
    str | None,
    typer.Option(
        "--profile",
        help="What the instances are: a shipped profile or a .json file.",
        rich_help_panel=_CLUSTER,
        show_default=False,
    ),
]
Instances = Annotated[
    int | None, typer.Option(help="Instances of the cluster.", rich_help_panel=_CLUSTER, show_default=False)
]
Conditions = Annotated[
    str | None,
    typer.Option(
        help="[bold]exact[/bold]: no noise, the router knows the profile. [bold]headline[/bold]: noisy steps, a fitted "
        "profile.",
        rich_help_panel=_CLUSTER,
        show_default=False,
    ),
]
StepNoise = Annotated[
    float | None,
    typer.Option(help="Noise of step times, such as 0.08.", rich_help_panel=_CLUSTER, show_default=False),
]
RouterProfile = Annotated[
    str | None,
    typer.Option(
        help="What the router believes the instances to be: exact, fitted, a shipped profile or a .json file.",
        rich_help_panel=_ROUTING,
        show_default=False,
    ),
]
Predictor = Annotated[
    str | None,
    typer.Option(
        help="Where predicted lengths come from: noisy:TAU, none, history, lognormal:SIGMA, "
        "buckets:ACCURACY, confusion:FILE, model:FOLDER, oracle.",
        rich_help_panel=_ROUTING,
        show_default=False,
    ),
]
Policies = Annotated[
    str | None,
    typer.Option(
        help="Policies, with commas, [bold]external:PROGRAM[/bold] for one of your own; all without it.",
        rich_help_panel=_ROUTING,
        show_default=False,
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(help="The policy that ratios are against.", rich_help_panel=_ROUTING, show_default=False),
]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="Write every figure here; - for standard output.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]
HtmlFile = Annotated[
    Path | None,
    typer.Option("--html", help="Write a page with plots here.", rich_help_panel=_OUTPUT, show_default=False),
]
SloTtft = Annotated[
    float | None,
    typer.Option(
        help="Limit on TTFT in seconds that goodput counts.", rich_help_panel=_OUTPUT, show_default=False
    ),
]
SloTpot = Annotated[
    float | None,
    typer.Option(
        help="Limit on mean TPOT in seconds that goodput counts.", rich_help_panel=_OUTPUT, show_default=False
    ),
]
Threads = Annotated[
    int, typer.Option(min=0, help="Threads of this machine; 0 is one per core.", rich_help_panel=_OUTPUT)
]
Ray = Annotated[
    str | None,
    typer.Option(
        help="Run on this Ray cluster, such as auto or ray://head:10001; local starts one here. Same figures.",
        rich_help_panel=_OUTPUT,
        metavar="ADDRESS",
        show_default=False,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any other setting of a scenario file, as KEY=VALUE in TOML: [bold]--set staleness_s=5.0[/bold].",
        metavar="KEY=VALUE",
        rich_help_panel=_WORKLOAD,
        show_default=False,
    ),
]


def settings(
    *,
    assignments: list[str] | None,
    slo_ttft: float | None,
    slo_tpot: float | None,
    drop_too_long: bool,
    **given: Any,
) -> dict[str, Any]:
    """The settings that were given."""
    result = {key: value for key, value in given.items() if value is not None}
    if drop_too_long:
        result["drop_too_long"] = True
    slo = {key: value for key, value in (("ttft_s", slo_ttft), ("tpot_s", slo_tpot)) if value is not None}
    if slo:
        result["slo"] = slo
    for assignment in assignments or []:
        try:
            result |= tomllib.loads(assignment)
        except tomllib.TOMLDecodeError as error:
            raise IrouterError(
                f"--set {assignment}: {error}; expected KEY=VALUE in TOML, texts in quotes"
            ) from error
    return result


def read(trace: Path | None, *, drop_empty: bool) -> Trace | None:
    """The trace that was given, if one was."""
    return None if trace is None else read_trace(trace, drop_empty=drop_empty)


def need_folders(*files: Path | None) -> None:
    """Raises before long work for a file that could not be written after it.

    Raises:
        IrouterError: Naming the folder that is missing.
    """
    for file in files:
        if file is not None and not file.parent.is_dir():
            raise IrouterError(f"no folder {file.parent} for {file.name}")


def names(text: str | None) -> list[str] | None:
    """The parts of `a,b(option=1,other=2),...`: commas in parentheses do not part."""
    return None if text is None else [name for name in _COMMAS.split(text) if name.strip()]


def loads(text: str | None) -> list[float] | None:
    """The loads of `FROM:TO:STEP` (both ends included) or `a,b,...`."""
    if text is None:
        return None
    expected = f"--sweep {text}: expected FROM:TO:STEP or a list such as 0.5,0.8,1.0, all above 0"
    try:
        if ":" not in text:
            values = [float(part) for part in text.split(",")]
        else:
            start, end, step = (float(part) for part in text.split(":"))
            if not (step > 0 and end >= start):
                raise IrouterError(expected)
            values = [round(start + index * step, 9) for index in range(int((end - start) / step + 1e-9) + 1)]
    except (ValueError, OverflowError) as error:
        raise IrouterError(expected) from error
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise IrouterError(expected)
    return values
