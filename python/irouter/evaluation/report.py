"""A comparison as one page that needs nothing else: no network, no other file."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from irouter.evaluation import report_plots
from irouter.evaluation.page import document, notes, plot, ratio_cell, row, section, table
from irouter.evaluation.presentation import (
    LATENCY,
    QUARTILES,
    WAITING,
    facts,
    ratio,
    remarks,
    self_reports,
    warnings,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from irouter.evaluation.comparison import Comparison
    from irouter.evaluation.presentation import Column
    from irouter.evaluation.report_plots import Styles


def page(comparison: Comparison) -> str:
    """The page as HTML; the same comparison gives the same bytes."""
    styles = report_plots.Styles(comparison)
    return document(
        f"{comparison.experiment.name}: routing policies compared",
        facts=facts(comparison)[1:],
        headline=_headline(styles),
        sections=_sections(comparison, styles),
    )


def _headline(styles: Styles) -> str:
    """The best policy in a sentence."""
    best, figures = next(iter(styles.policies.items()))
    if best == styles.reference:
        return f"No policy has a lower mean E2E than <b>{escape(best)}</b> here."
    mean, tail = figures["ratio"]["e2e_mean_s"], figures["ratio"]["e2e_p99_s"]
    return (
        f"Lowest mean E2E: <b>{escape(best)}</b>, {ratio(mean)} of {escape(styles.reference)}'s; "
        f"its P99 is {ratio(tail)} of {escape(styles.reference)}'s."
    )


def _sections(comparison: Comparison, styles: Styles) -> list[str]:
    reference = escape(styles.reference)
    sections = [
        section("Latency", f"Seconds. Ratios are against {reference}; bold is the best.", _latency(styles)),
        section(
            f"Gain over {reference}",
            "How much lower each policy's figure is, in percent, with 95 % intervals where there are several seeds.",
            plot("gains", report_plots.gains(styles)),
        ),
        section(
            "Mean and tail",
            "Below and left of the dotted lines both are better; a policy above the line buys its mean with the tail.",
            plot("mean-and-tail", report_plots.mean_and_tail(styles)),
        ),
        section(
            "Distributions",
            "Click a name to show or hide it; double-click to see it alone.",
            plot("distributions", report_plots.distributions(styles, comparison.main)),
        ),
        section(
            "Who pays",
            "P99 E2E by output length: an order that favours short requests shows on the right.",
            plot("who-pays", report_plots.who_pays(styles)) + _who_pays(styles),
        ),
        section(
            "Queues and KV cache over time",
            "The first seed. Choose the policy on the right.",
            plot("occupancy", report_plots.occupancy(styles, comparison.main)),
        ),
    ]
    if comparison.sweep:
        text = "Load is arrivals as a share of the cluster's saturation."
        against_load = plot("against-load", report_plots.against_load(styles, comparison.sweep))
        sections.insert(1, section("Latency against load", text, against_load))
    if failed := warnings(comparison):
        text = "Their figures are those of the rule that stood in for them as much as their own."
        sections.insert(0, section("Policies that failed", text, notes(failed)))
    sections.append(section("Tokens, waiting and counts", "", _table(styles, WAITING)))
    remarked = (*remarks(comparison), *self_reports(styles.policies), *comparison.experiment.notes)
    sections.append(section("Notes", "", notes(remarked)))
    return sections


def _latency(styles: Styles) -> str:
    return _table(styles, LATENCY, ratios=(("mean", "e2e_mean_s"), ("P99", "e2e_p99_s")))


def _table(styles: Styles, columns: Sequence[Column], ratios: Sequence[tuple[str, str]] = ()) -> str:
    headings = [column.heading for column in columns]
    headings += [f"{title} / {styles.reference}" for title, _ in ratios]
    best = {column: column.best(styles.policies) for column in columns}
    rows = []
    for name, figures in styles.policies.items():
        cells = []
        for column in columns:
            value = figures[column.key]
            mark = ' class="best"' if value is not None and value == best[column] else ""
            cells.append(f"<td{mark}>{column.cell(value)}</td>")
        cells += [ratio_cell(figures["ratio"][key]) for _, key in ratios]
        rows.append(_row(styles, name, cells))
    return table(("policy", *headings), rows)


def _who_pays(styles: Styles) -> str:
    headings = [heading for quartile in QUARTILES for heading in (quartile, "ratio")]
    key = "e2e_p99_by_output_quartile_s"
    rows = []
    for name, figures in styles.policies.items():
        cells = []
        for value, against in zip(figures[key], figures["ratio"][key], strict=True):
            cells += ["<td>-</td>" if value is None else f"<td>{value:,.2f}</td>", ratio_cell(against)]
        rows.append(_row(styles, name, cells))
    return table(("policy", *headings), rows)


def _row(styles: Styles, name: str, cells: Sequence[str]) -> str:
    return row(name, cells, colour=styles.colour(name), reference=name == styles.reference)
