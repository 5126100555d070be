"""`irouter calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from irouter._core import IrouterError
from irouter.calibration import calibrate_requests, calibrate_steps
from irouter.cli import options
from irouter.cli.console import err, out, written

EXAMPLES = """[bold]Examples[/bold]

irouter calibrate --step-log steps.parquet --profile llama-3.1-8b@h100 --out mine.json

irouter calibrate --request-log requests.csv --profile llama-3.1-8b@rtx4090 --out mine.json

irouter compare conversation --profile mine.json
"""


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
        str, typer.Option(help="Form of a fit to steps: C for curves, A for five coefficients.")
    ] = "C",
    html_file: Annotated[
        Path | None,
        typer.Option(
            "--html", help="Write the plot here; beside the profile without it.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw of the held-out quarter.")] = 0,
) -> None:
    """Fit a latency profile to a log of a real engine, and say how well it fits."""
    if out_file.suffix != ".json":
        raise IrouterError(f"--out {out_file}: expected a file that ends in .json")
    html_file = html_file or out_file.with_suffix(".html")
    options.need_folders(out_file, html_file)
    with err.status("fitting"):
        if step_log is not None and request_log is None:
            fitted = calibrate_steps(step_log, template=profile, name=out_file.stem, form=form, seed=seed)
        elif request_log is not None and step_log is None:
            fitted = calibrate_requests(request_log, template=profile, name=out_file.stem, seed=seed)
        else:
            raise IrouterError("give either --step-log or --request-log")
    held_out, rows = int(fitted.held_out.sum()), len(fitted.held_out)
    for quantity in fitted.quantities:
        error = quantity.held_out_error_percent
        out.print(
            f"{quantity.name}: mean error {error:.2f} % on {held_out:,} of {rows:,} rows held out",
            highlight=False,
        )
    fitted.write_profile(out_file)
    fitted.write_html(html_file)
    written("profile", out_file)
    written("plot", html_file)
