"""How good a predictor is on a log, as one page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from irouter.evaluation.page import document, notes, plot, section, table
from irouter.evaluation.report_plots import LOGARITHMIC, PALETTE, REFERENCE_COLOUR, Figure, styled
from irouter.prediction.distribution import LENGTH_LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from irouter.prediction.card import Card
    from irouter.prediction.log import RequestLog
    from irouter.prediction.metrics import Metrics, Outcomes

# Points of the scatter plot: more hide one another.
_MOST_POINTS: Final = 4000
_MOST_TASKS: Final = 12


def page(card: Card, log: RequestLog, outcomes: Outcomes, metrics: Metrics) -> str:
    """The page as HTML; the same predictions give the same bytes.

    Args:
        card: Card of the predictor.
        log: The log that it was judged on.
        outcomes: What it said, beside the lengths that came.
        metrics: Figures of these.
    """
    tau = "none" if metrics.kendall_tau is None else f"{metrics.kendall_tau:.3f}"
    headline = (
        f"Kendall's tau-b <b>{tau}</b>, mean absolute error <b>{metrics.mae_tokens:,.0f} tokens</b>; the central 80 % "
        f"holds <b>{metrics.coverage_80:.1%}</b> of the lengths."
    )
    facts = [
        f"predictor {card.backend}",
        f"trained on {card.data['name']}",
        f"judged on {log.name}: {metrics.rows:,} requests, {metrics.cut:,} of them cut by a limit",
        f"licence {card.licence or 'not known'}",
    ]
    return document(
        f"Output lengths predicted by {card.backend}",
        facts=facts,
        headline=headline,
        sections=_sections(card, log, outcomes),
        footnote="Lengths are in tokens.",
    )


def _sections(card: Card, log: RequestLog, outcomes: Outcomes) -> Iterator[str]:
    yield section(
        "Predicted and actual lengths",
        "Each request by its predicted median and its length. On the dotted line both are equal.",
        plot("lengths", _lengths(outcomes)),
    )
    yield section(
        "Calibration",
        "How often a length is below the quantile of a level: on the dotted line as often as the level says. Lengths "
        "that a limit cut count as at least what they are known to be.",
        plot("calibration", _calibration(outcomes)),
    )
    edges = ", ".join(f"{edge:,}" for edge in card.bucket_edges)
    text = f"Five buckets of about equal shares in training, which begin at 0, {edges} tokens: likeliest and actual."
    yield section("Confusion by task", text, plot("confusion", _confusions(log, outcomes)))
    yield section("By task", "", _by_task(log, outcomes))
    if card.tasks:
        yield section("Tasks told apart", _told_apart(card), plot("tasks", _tasks_confusion(card)))
    yield section(
        "How lengths that were cut count",
        "",
        notes(
            [
                "Rank correlation: a pair whose order the cut hides counts as tied.",
                "Mean absolute error and pinball loss: only what a prediction falls short of a cut length counts.",
                "Coverage: the product-limit estimate.",
                "Buckets: a cut length counts where its bucket is known, which is in the last.",
            ]
        ),
    )


def _lengths(outcomes: Outcomes) -> Figure:
    rows = np.unique(np.linspace(0, len(outcomes.tokens) - 1, _MOST_POINTS).astype(int))
    figure = go.Figure()
    for label, chosen, colour, symbol in (
        ("ended by itself", rows[~outcomes.cut[rows]], PALETTE[0], "circle"),
        ("cut by a limit", rows[outcomes.cut[rows]], PALETTE[3], "triangle-up"),
    ):
        trace = go.Scattergl(
            x=np.maximum(outcomes.lengths.median[chosen], 1.0).round(1).tolist(),
            y=outcomes.tokens[chosen].tolist(),
            mode="markers",
            name=label,
            marker={"color": colour, "size": 5, "opacity": 0.45, "symbol": symbol},
            hovertemplate="predicted %{x:,.0f}, actual %{y:,.0f} tokens<extra></extra>",
        )
        figure.add_trace(trace)
    longest = float(outcomes.tokens.max())
    figure.add_trace(_line([1.0, longest], [1.0, longest]))
    figure.update_xaxes(title="predicted median (tokens)", **LOGARITHMIC)
    figure.update_yaxes(title="actual length (tokens)", **LOGARITHMIC)
    return styled(figure, height=560, legend=True)


def _calibration(outcomes: Outcomes) -> Figure:
    shares = [outcomes.share_below(level) for level in range(len(LENGTH_LEVELS))]
    figure = go.Figure(
        go.Scatter(
            x=list(LENGTH_LEVELS),
            y=shares,
            mode="lines+markers",
            name="observed",
            marker={"color": PALETTE[0]},
            hovertemplate="level %{x:.2f}: %{y:.1%} below<extra></extra>",
        )
    )
    figure.add_trace(_line([0.0, 1.0], [0.0, 1.0]))
    figure.update_xaxes(title="level of the quantile", range=[0, 1], tickformat=".0%")
    figure.update_yaxes(title="share of lengths below it", range=[0, 1], tickformat=".0%")
    return styled(figure, height=460)


def _confusions(log: RequestLog, outcomes: Outcomes) -> Figure:
    tasks = _tasks(log)
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    figure = make_subplots(
        rows=lines,
        cols=columns,
        subplot_titles=[f"{name} ({len(rows):,})" for name, rows in tasks.items()],
        horizontal_spacing=0.08,
        vertical_spacing=0.3 / lines,
    )
    starts = ["0", *(f"{edge:,}" for edge in outcomes.edges)]
    for number, rows in enumerate(tasks.values()):
        counts = outcomes.rows(rows).confusion(outcomes.edges)
        heat = _heat(counts, starts, "actual from %{y}, predicted from %{x}: %{text} requests")
        figure.add_trace(heat, row=number // columns + 1, col=number % columns + 1)
    figure.update_xaxes(type="category", title="predicted, from")
    figure.update_yaxes(type="category", title="actual, from")
    return styled(figure, height=90 + 300 * lines, left=80)


def _told_apart(card: Card) -> str:
    if card.tasks["accuracy"] is None:
        return "Requests that name no task get the likeliest. Nobody has judged how often that is right."
    return (
        f"Requests that name no task get the likeliest: right for {card.tasks['accuracy']:.1%} of "
        f"{card.tasks['rows']:,} requests held out, where guessing the most frequent is for "
        f"{card.tasks['majority']:.1%}."
    )


def _tasks_confusion(card: Card) -> Figure:
    names = list(card.tasks["names"])
    counts = np.asarray(card.tasks["counts"])
    figure = go.Figure(_heat(counts, names, "actual %{y}, found %{x}: %{text} requests"))
    figure.update_xaxes(type="category", title="task found")
    figure.update_yaxes(type="category", title="task named")
    return styled(figure, height=160 + 40 * len(names), left=160)


def _heat(counts: NDArray[np.int64], names: list[str], hover: str) -> Figure:
    """Counts by what came and what was found, each row coloured by its shares."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return go.Heatmap(
        z=share.round(3).tolist(),
        x=names,
        y=names,
        text=counts.tolist(),
        texttemplate="%{text}",
        colorscale=[[0, "#f6f8fa"], [0.6, "#8fb8de"], [1, "#0b2e59"]],
        zmin=0,
        zmax=1,
        showscale=False,
        hovertemplate=f"{hover}<extra></extra>",
    )


def _by_task(log: RequestLog, outcomes: Outcomes) -> str:
    rows = []
    for name, members in _tasks(log).items():
        found = outcomes.rows(members).metrics()
        tau = "-" if found.kendall_tau is None else f"{found.kendall_tau:.3f}"
        cells = (
            f"{found.rows:,}",
            f"{found.cut:,}",
            tau,
            f"{found.mae_tokens:,.1f}",
            f"{found.pinball_loss:,.1f}",
            f"{found.coverage_80:.1%}",
            f"{found.accuracy_5:.1%}",
        )
        rows.append(
            f"<tr><td>{escape(name)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        )
    headings = (
        "task",
        "requests",
        "cut",
        "tau-b",
        "error, tokens",
        "pinball loss",
        "80 % interval",
        "five buckets",
    )
    return table(headings, rows)


def _tasks(log: RequestLog) -> dict[str, NDArray[np.int64]]:
    """All requests, then those of each task, the most frequent first."""
    names = np.array(["no task" if task is None else task for task in log.requests.tasks])
    found, counts = np.unique(names, return_counts=True)
    tasks = {"all": np.arange(len(log))}
    if len(found) > 1:
        for name in found[np.argsort(-counts, kind="stable")][:_MOST_TASKS]:
            tasks[str(name)] = np.flatnonzero(names == name)
    return tasks


def _line(x: list[float], y: list[float]) -> Figure:
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": REFERENCE_COLOUR, "dash": "dot", "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )
