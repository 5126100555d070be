"""A comparison as tables."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from irouter.cli.console import out, plain_table
from irouter.evaluation import Comparison
from irouter.evaluation.presentation import (
    LATENCY,
    QUARTILES,
    WAITING,
    Column,
    facts,
    ordered,
    ratio,
    remarks,
    self_reports,
    verdict,
    warnings,
)

_STYLES: Final = {"better": "green", "worse": "red", "": ""}


def print_comparison(comparison: Comparison) -> None:
    """Prints the figures of every policy, the best of each column marked."""
    policies, reference = ordered(comparison.policies), comparison.experiment.reference
    out.print(Text(" · ".join(facts(comparison)), style="bold"))
    for warning in warnings(comparison):
        out.print(Text(f"  {warning}", style="bold red"))
    for remark in remarks(comparison):
        out.print(Text(f"  {remark}", style="dim"))
    for table in (
        _latency(policies, reference),
        _waiting(policies, reference),
        _who_pays(policies, reference),
    ):
        out.print()
        out.print(table)
    for line in self_reports(policies):
        out.print()
        out.print(Text(line, style="dim"))


def _latency(policies: Mapping[str, Mapping[str, Any]], reference: str) -> Table:
    headings = [*(column.heading for column in LATENCY), f"E2E mean / {reference}", "P99"]
    table = policy_table("Latency in seconds", policies, headings)
    for name, figures in policies.items():
        ratios = [_ratio(figures["ratio"][key]) for key in ("e2e_mean_s", "e2e_p99_s")]
        table.add_row(name, *_cells(policies, name, LATENCY), *ratios, style=_row_style(name, reference))
    return table


def _waiting(policies: Mapping[str, Mapping[str, Any]], reference: str) -> Table:
    table = policy_table("Tokens, waiting and counts", policies, [column.heading for column in WAITING])
    for name in policies:
        table.add_row(name, *_cells(policies, name, WAITING), style=_row_style(name, reference))
    return table


def _who_pays(policies: Mapping[str, Mapping[str, Any]], reference: str) -> Table:
    headings = [heading for quartile in QUARTILES for heading in (quartile, "ratio")]
    title = f"Who pays: P99 E2E by quartile of output length, in seconds and against {reference}"
    table = policy_table(title, policies, headings)
    key = "e2e_p99_by_output_quartile_s"
    for name, figures in policies.items():
        cells: list[Text] = []
        for value, against in zip(figures[key], figures["ratio"][key], strict=True):
            cells += [Text("-" if value is None else f"{value:,.2f}"), _ratio(against)]
        table.add_row(name, *cells, style=_row_style(name, reference))
    return table


def policy_table(title: str, policies: Mapping[str, Any], headings: Sequence[str]) -> Table:
    """An empty table with a row per policy to come, and `headings` after its name."""
    table = plain_table(title, gap=1)
    table.add_column("policy", no_wrap=True, min_width=max(map(len, policies)))
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _cells(policies: Mapping[str, Mapping[str, Any]], name: str, columns: Sequence[Column]) -> list[Text]:
    values = [(column, policies[name][column.key]) for column in columns]
    best = {column: column.best(policies) for column in columns}
    return [
        Text(column.cell(value), style="bold green" if value is not None and value == best[column] else "")
        for column, value in values
    ]


def _ratio(values: list[float | None]) -> Text:
    return Text(ratio(values), style=_STYLES[verdict(values)])


def _row_style(name: str, reference: str) -> str:
    return "dim" if name == reference else ""
