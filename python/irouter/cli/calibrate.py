"""`irouter calibrate`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from irouter import profiles
from irouter._core import IrouterError
from irouter._extras import require
from irouter.calibration import Calibration, calibrate_requests, calibrate_steps
from irouter.cli import options
from irouter.cli.console import err, out, progress, written

EXAMPLES = """[bold]Examples[/bold]

irouter calibrate --step-log steps.parquet --profile llama-3.1-8b@h100 --out mine.json

irouter calibrate --request-log requests.csv --profile llama-3.1-8b@rtx4090 --out mine.json

irouter calibrate --probe http://localhost:8000 --seconds 120 --profile llama-3.1-8b@h100 --out mine.json

irouter compare conversation --profile mine.json
"""
_PROBING = "Probing"


def calibrate(
    step_log: Annotated[
        Path | None,
        typer.Option(
            help="A row per engine step: prefill_sequences, prefill_tokens, prefill_pairs, decodes, decode_context, "
            "duration_ms.",
            show_default=False,
        ),
    ] = None,
    request_log: Annotated[
        Path | None,
        typer.Option(
            help="A row per request of one instance: arrival_s, input_tokens, output_tokens, first_token_s, "
            "last_token_s.",
            show_default=False,
        ),
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(
            help="A live OpenAI-compatible endpoint that nobody else uses, such as http://localhost:8000.",
            show_default=False,
        ),
    ] = None,
    *,
    profile: Annotated[
        str,
        typer.Option(
            help="Profile that gives model, scheduler and KV cache: a shipped one or a .json file.",
            show_default=False,
        ),
    ],
    out_file: Annotated[
        Path, typer.Option("--out", help="Write the fitted profile to this .json file.", show_default=False)
    ],
    form: Annotated[
        str, typer.Option(help="Form of a fit to steps or a probe: C for curves, A for five coefficients.")
    ] = "C",
    html_file: Annotated[
        Path | None,
        typer.Option(
            "--html", help="Write the plot here; beside the profile without it.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the held-out quarter, and of what a probe sends.")
    ] = 0,
    seconds: Annotated[
        float, typer.Option(help="How long to probe, about.", rich_help_panel=_PROBING)
    ] = 120.0,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model, where the endpoint serves several.", rich_help_panel=_PROBING, show_default=False
        ),
    ] = None,
    kv_blocks: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Blocks of the KV cache; as the endpoint's metrics say without it.",
            rich_help_panel=_PROBING,
            show_default=False,
        ),
    ] = None,
    max_num_seqs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most requests in a batch; as the profile says without it.",
            rich_help_panel=_PROBING,
            show_default=False,
        ),
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most tokens in a step; as the profile says without it.",
            rich_help_panel=_PROBING,
            show_default=False,
        ),
    ] = None,
    key_variable: Annotated[
        str,
        typer.Option(
            "--api-key-env",
            help="Environment variable with the endpoint's key.",
            rich_help_panel=_PROBING,
        ),
    ] = "OPENAI_API_KEY",
) -> None:
    """Fit a latency profile to a log of a real engine or to a live one, and say how well it fits."""
    if out_file.suffix != ".json":
        raise IrouterError(f"--out {out_file}: expected a file that ends in .json")
    html_file = html_file or out_file.with_suffix(".html")
    options.need_folders(out_file, html_file)
    name = out_file.stem
    fitted: Calibration
    match (step_log, request_log, probe):
        case (Path(), None, None):
            with err.status("fitting"):
                fitted = calibrate_steps(step_log, template=profile, name=name, form=form, seed=seed)
        case (None, Path(), None):
            with err.status("fitting"):
                fitted = calibrate_requests(request_log, template=profile, name=name, seed=seed)
        case (None, None, str()):
            for module in ("aiohttp", "prometheus_client"):
                require(module, extra="serve", purpose="irouter calibrate --probe")
            from irouter.calibration.probing import ProbeOptions, calibrate_endpoint  # noqa: PLC0415 - needs the extra

            probing = ProbeOptions(
                template=profiles.load(profile),
                name=name,
                seconds=seconds,
                kv_blocks=kv_blocks,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens,
                form=form,
                seed=seed,
            )
            with progress("probing") as report:
                fitted = calibrate_endpoint(
                    probe, probing, model=model, api_key=os.environ.get(key_variable), progress=report
                )
        case _:
            raise IrouterError("give one of --step-log, --request-log and --probe")
    for quantity in fitted.quantities:
        held_out, rows = int(quantity.held_out.sum()), len(quantity.held_out)
        out.print(
            f"{quantity.name}: mean error {quantity.held_out_error_percent:.2f} % on {held_out:,} of {rows:,} rows "
            "held out",
            highlight=False,
            soft_wrap=True,
        )
    for doubt in fitted.doubts:
        err.print(f"warning: not to be trusted: {doubt}", style="yellow", highlight=False, soft_wrap=True)
    fitted.write_profile(out_file)
    fitted.write_html(html_file)
    written("profile", out_file)
    written("plot", html_file)
