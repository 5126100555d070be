"""What `irouter train --from-log` prints."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from irouter.cli.console import err, out, plain_table, written
from irouter.evaluation.objective import REFERENCE

if TYPE_CHECKING:
    from irouter.training.from_log import FleetTraining

REFUSED = 3
"""Exit status where the weights found are not better than what there is."""


def show(found: "FleetTraining", file: Path) -> None:
    """Prints what a training from a log came to."""
    trace, header = found.log.trace, found.header
    hours = (trace.arrival_s[-1] - trace.arrival_s[0]) / 3600
    out.print(
        f"[bold]{header['log']}[/bold]: {len(trace):,} requests in {hours:.2f} h, {header['instances']} instances of "
        f"{found.profile.profile['name']}, predicted lengths: {found.fleet.predictor}",
        highlight=False,
    )
    if found.profile.held_out_error_percent:
        errors = ", ".join(
            f"{name} {error:.1f} %" for name, error in found.profile.held_out_error_percent.items()
        )
        out.print(
            f"profile fitted to {found.profile.requests:,} requests; error on those held out: {errors}",
            highlight=False,
        )
    for note in found.notes:
        out.print(note, highlight=False)
    verdict = found.verdict
    out.print(
        f"{header['generations']} generations, {header['requests']:,} simulated requests; judged on the later part, "
        f"{verdict.windows} windows at each load",
        highlight=False,
    )
    loads = header["loads"] or [None]
    for load, figures in zip(loads, verdict.figures, strict=True):
        out.print(_table("as logged" if load is None else f"load {load:g}", figures))
    out.print(_rivals(found))
    for what, suffix in (("profile", ".profile.json"), ("report", ".report.json")):
        written(what, file.with_suffix(suffix))
    if verdict.accepted:
        written("weights", file)
    else:
        err.print(f"refused: {'; '.join(verdict.reasons)}", highlight=False, soft_wrap=True)
        err.print(
            f"{file} {'stays as it is' if file.exists() else 'is not written'}",
            highlight=False,
            soft_wrap=True,
        )


def _table(title: str, figures: Any) -> Table:
    table = plain_table(title)
    table.add_column("policy")
    for column in ("mean E2E", "P99 E2E", "mean TTFT", "P99 TTFT"):
        table.add_column(f"{column} s", justify="right")
    table.add_column(f"mean E2E / {REFERENCE}", justify="right")
    table.add_column("goodput", justify="right")
    for policy, of in figures.items():
        seconds = [of[key] for key in ("e2e_mean_s", "e2e_p99_s", "ttft_mean_s", "ttft_p99_s")]
        ratio = of["ratio"]["e2e_mean_s"][0]
        table.add_row(
            policy, *(f"{value:.3f}" for value in seconds), f"{ratio:.3f}", f"{100 * of['goodput']:.1f} %"
        )
    return table


def _rivals(found: "FleetTraining") -> Table:
    table = plain_table("objective, lower is better")
    table.add_column("policy")
    table.add_column("objective", justify="right")
    table.add_column("the weights are better by", justify="right")
    table.add_row("the weights", f"{found.verdict.objective:.4f}", "")
    for rival in found.verdict.rivals:
        lead, low, high = (100 * value for value in rival.lead)
        name = f"{rival.policy}, to be replaced" if rival.is_replaced else rival.policy
        interval = f"{lead:+.1f} % ({low:+.1f} to {high:+.1f})" if math.isfinite(low) else f"{lead:+.1f} %"
        table.add_row(name, f"{rival.objective:.4f}", interval)
    return table
