"""Predicted against measured durations as one page."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from irouter.evaluation.report_plots import LOGARITHMIC

if TYPE_CHECKING:
    from irouter.calibration.fit import Calibration

_SEEN, _HELD_OUT, _LINE = "#9fb3c8", "#d1495b", "#57606a"


def page(calibration: Calibration) -> str:
    """The page as HTML; the same calibration gives the same bytes."""
    quantities = calibration.quantities
    titles = [
        f"{quantity.name}: {quantity.held_out_error_percent:.2f} % mean error on held-out rows"
        for quantity in quantities
    ]
    figure = make_subplots(cols=len(quantities), subplot_titles=titles)
    for column, quantity in enumerate(quantities, start=1):
        for label, rows, colour in (
            ("fitted", ~quantity.held_out, _SEEN),
            ("held out", quantity.held_out, _HELD_OUT),
        ):
            trace = go.Scattergl(
                x=quantity.measured[rows].tolist(),
                y=quantity.predicted[rows].tolist(),
                mode="markers",
                name=label,
                legendgroup=label,
                showlegend=column == 1 and bool(rows.any()),
                marker={"color": colour, "size": 5, "opacity": 0.6},
                hovertemplate=f"measured %{{x:.3g}}, predicted %{{y:.3g}} {quantity.unit}<extra></extra>",
            )
            figure.add_trace(trace, row=1, col=column)
        ends = [float(quantity.measured.min()), float(quantity.measured.max())]
        line = go.Scatter(
            x=ends, y=ends, mode="lines", line={"color": _LINE, "dash": "dot", "width": 1}, showlegend=False
        )
        figure.add_trace(line, row=1, col=column)
        figure.update_xaxes(title=f"measured ({quantity.unit})", **LOGARITHMIC, row=1, col=column)
        figure.update_yaxes(title=f"predicted ({quantity.unit})", **LOGARITHMIC, row=1, col=column)
    title = f"{calibration.profile['name']}: {calibration.profile['source']['data']}"
    doubts = "".join(
        f"<br><sup>not to be trusted: {html.escape(doubt)}</sup>" for doubt in calibration.doubts
    )
    figure.update_layout(
        title=title + doubts,
        margin={"t": 100 + 20 * len(calibration.doubts)},
        template="plotly_white",
        width=640 * len(quantities),
        height=620,
    )
    text: str = figure.to_html(full_html=True, include_plotlyjs=True, div_id="calibration")
    return text
