"""A comparison as one page that needs nothing else: no network, no other file."""

from __future__ import annotations

from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

from plotly.offline import get_plotlyjs

from irouter import _core
from irouter.evaluation import report_plots
from irouter.evaluation.presentation import (
    LATENCY,
    QUARTILES,
    WAITING,
    facts,
    ratio,
    remarks,
    self_reports,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from irouter.evaluation.comparison import Comparison
    from irouter.evaluation.presentation import Column
    from irouter.evaluation.report_plots import Figure, Styles

# Modest tools: an image of a plot, and nothing that asks for a network.
_CONFIG = {
    "displayModeBar": "hover",
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}


def page(comparison: Comparison) -> str:
    """The page as HTML; the same comparison gives the same bytes."""
    styles = report_plots.Styles(comparison)
    template = Template((resources.files(__package__) / "report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=f"{escape(comparison.experiment.name)}: routing policies compared",
        plotly=get_plotlyjs(),
        facts="".join(f"<li>{escape(fact)}</li>" for fact in facts(comparison)[1:]),
        headline=_headline(styles),
        sections="\n".join(_sections(comparison, styles)),
        version=escape(_core.VERSION),
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
        _section("Latency", f"Seconds. Ratios are against {reference}; bold is the best.", _latency(styles)),
        _section(
            f"Gain over {reference}",
            "How much lower each policy's figure is, in percent, with 95 % intervals where there are several seeds.",
            _plot("gains", report_plots.gains(styles)),
        ),
        _section(
            "Mean and tail",
            "Below and left of the dotted lines both are better; a policy above the line buys its mean with the tail.",
            _plot("mean-and-tail", report_plots.mean_and_tail(styles)),
        ),
        _section(
            "Distributions",
            "Click a name to show or hide it; double-click to see it alone.",
            _plot("distributions", report_plots.distributions(styles, comparison.main)),
        ),
        _section(
            "Who pays",
            "P99 E2E by output length: an order that favours short requests shows on the right.",
            _plot("who-pays", report_plots.who_pays(styles)) + _who_pays(styles),
        ),
        _section(
            "Queues and KV cache over time",
            "The first seed. Choose the policy on the right.",
            _plot("occupancy", report_plots.occupancy(styles, comparison.main)),
        ),
    ]
    if comparison.sweep:
        text = "Load is arrivals as a share of the cluster's saturation."
        plot = _plot("against-load", report_plots.against_load(styles, comparison.sweep))
        sections.insert(1, _section("Latency against load", text, plot))
    sections.append(_section("Tokens, waiting and counts", "", _table(styles, WAITING)))
    notes = "".join(
        f"<li>{escape(note)}</li>"
        for note in (*remarks(comparison), *self_reports(styles.policies), *comparison.experiment.notes)
    )
    sections.append(_section("Notes", "", f'<ul class="notes">{notes}</ul>'))
    return sections


def _section(title: str, text: str, content: str) -> str:
    paragraph = f"<p>{text}</p>" if text else ""
    return f"<section><h2>{title}</h2>{paragraph}{content}</section>"


def _plot(name: str, figure: Figure) -> str:
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=_CONFIG)
    return html


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
        cells += [_ratio_cell(figures["ratio"][key]) for _, key in ratios]
        rows.append(_row(styles, name, cells))
    return _whole_table(headings, rows)


def _who_pays(styles: Styles) -> str:
    headings = [heading for quartile in QUARTILES for heading in (quartile, "ratio")]
    key = "e2e_p99_by_output_quartile_s"
    rows = []
    for name, figures in styles.policies.items():
        cells = []
        for value, against in zip(figures[key], figures["ratio"][key], strict=True):
            cells += ["<td>-</td>" if value is None else f"<td>{value:,.2f}</td>", _ratio_cell(against)]
        rows.append(_row(styles, name, cells))
    return _whole_table(headings, rows)


def _ratio_cell(values: list[Any]) -> str:
    return f'<td class="{verdict(values)}">{ratio(values)}</td>'


def _row(styles: Styles, name: str, cells: Sequence[str]) -> str:
    mark = ' class="reference"' if name == styles.reference else ""
    swatch = f'<span class="swatch" style="background:{styles.colour(name)}"></span>'
    return f"<tr{mark}><td>{swatch}{escape(name)}</td>{''.join(cells)}</tr>"


def _whole_table(headings: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in ("policy", *headings))
    body = "".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
