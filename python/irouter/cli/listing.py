"""`irouter scenarios`, `irouter policies` and `irouter profiles`."""

import json
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from irouter import profiles as shipped_profiles
from irouter import scenarios as shipped_scenarios
from irouter.cli.console import out, plain_table
from irouter.evaluation.registry import registry

profiles = typer.Typer(help="Latency profiles.", no_args_is_help=True)


def scenarios(
    name: Annotated[
        str | None, typer.Argument(help="Show this one with its notes.", show_default=False)
    ] = None,
) -> None:
    """List the scenarios, or show one with what is unknown or was chosen."""
    if name is None:
        table = _table("scenario", "what it is")
        for each in shipped_scenarios.names():
            table.add_row(each, escape(shipped_scenarios.load(each).description))
        out.print(table)
        return
    scenario = shipped_scenarios.load(name)
    out.print(f"[bold]{scenario.name}[/bold]: {escape(scenario.description)}")
    if scenario.trace_source:
        out.print(f"trace: {escape(scenario.trace_source)}")
    out.print_json(json.dumps(scenario.settings), indent=2)
    for note in scenario.notes:
        out.print(f"  - {escape(note)}", highlight=False)


def policies() -> None:
    """List the policies."""
    table = _table("policy", "from", "rule")
    for policy in registry().values():
        origin = f"{policy.origin}, tested" if policy.conformance_tested else policy.origin
        table.add_row(policy.name, origin, escape(policy.description))
    out.print(table)


@profiles.command("list")
def list_profiles() -> None:
    """List the shipped profiles; `show` tells where the times of one come from."""
    table = _table(
        "profile", "instance", "scheduler", "context", "KV tokens", "fitted up to", "held-out error"
    )
    for name in shipped_profiles.names():
        profile = shipped_profiles.load(name)
        table.add_row(name, *(escape(cell) for cell in _cells(profile)))
    out.print(table)


@profiles.command("show")
def show_profile(
    name: Annotated[str, typer.Argument(help="A shipped profile or a .json file.", show_default=False)],
) -> None:
    """Print a profile as JSON."""
    out.print_json(json.dumps(shipped_profiles.load(name)), indent=2)


def _cells(profile: dict[str, Any]) -> tuple[str, ...]:
    kv, scheduler, source = profile["kv"], profile["scheduler"], profile["source"]
    error = source["held_out_error_percent"]
    return (
        f"{profile['tensor_parallel']} x {profile['accelerator']}",
        f"{scheduler['mode']}, {scheduler['max_num_seqs']} seqs, {scheduler['max_num_batched_tokens']:,} tokens",
        f"{profile['max_model_len']:,}",
        f"{kv['blocks'] * kv['block_tokens']:,}",
        f"{source['fitted_tokens']:,} tokens, {source['fitted_sequences']:,} seqs",
        "not measured" if error is None else f"{error} %",
    )


def _table(*columns: str) -> Table:
    table = plain_table()
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, style="cyan" if index == 0 else "", overflow="fold")
    return table
