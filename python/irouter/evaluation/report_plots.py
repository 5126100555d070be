"""The plots of a comparison."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from irouter.evaluation.presentation import QUARTILES, ordered
from irouter.evaluation.registry import registry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from irouter.evaluation.comparison import Comparison, Point

Figure = Any
"""A Plotly figure; the package ships no types."""

PALETTE: Final = (
    "#4269d0", "#e0803b", "#3a9d6e", "#d1495b", "#8c6bb1", "#00a3b4", "#b58900", "#c2529e", "#7a5c45", "#5b8c2a",
    "#1b6ca8", "#f0a35e", "#2a6f6b", "#a83232", "#5e4fa2", "#66c2d0", "#d4b106", "#e39ac4", "#a98467", "#9ab973",
)  # fmt: skip
LOGARITHMIC: Final = {
    "type": "log",
    "tickvals": [digit * 10.0**power for power in range(-4, 7) for digit in (1, 2, 5)],
}
"""A logarithmic axis whose ticks are numbers in full: Plotly's own write 50 as 5."""
REFERENCE_COLOUR: Final = "#57606a"
_GRID: Final = "#e6e8eb"
_INK: Final = "#1f2328"
_WHISKER: Final = "#8b949e"
_FONT: Final = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
# Curves of more policies than this are a tangle: the others wait in the legend.
_SHOWN: Final = 6
# A policy that is worse than this many times the reference is named beside the plot of mean and tail.
_WORST_RATIO: Final = 1.6


class Styles:
    """One colour per policy on every plot, and which policies a plot of curves shows at first."""

    def __init__(self, comparison: Comparison) -> None:
        self.reference = comparison.experiment.reference
        self.policies = ordered(comparison.policies)
        # In the order of the registry: the same policies have the same colours on every page, whoever is fastest.
        listed = [name for name in registry() if name in self.policies]
        listed += sorted(self.policies.keys() - listed)
        self._colours = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(listed)}
        self._colours[self.reference] = REFERENCE_COLOUR
        others = [name for name in self.policies if name != self.reference]
        self._shown = {self.reference, *others[:_SHOWN]}

    def colour(self, policy: str) -> str:
        """Colour of a policy."""
        return self._colours[policy]

    def is_shown(self, policy: str) -> bool:
        """Whether a plot of curves shows the policy at first."""
        return policy in self._shown

    def trace(self, policy: str, *, in_legend: bool) -> dict[str, Any]:
        """What every trace of a policy has in common."""
        return {
            "name": policy,
            "legendgroup": policy,
            "showlegend": in_legend,
            "visible": True if self.is_shown(policy) else "legendonly",
            "line": {
                "color": self.colour(policy),
                "width": 2,
                "dash": "dash" if policy == self.reference else "solid",
            },
        }


def gains(styles: Styles) -> Figure:
    """How much lower than the reference's each policy's latencies are, with intervals."""
    panels = (
        ("e2e_mean_s", "mean E2E"),
        ("e2e_p99_s", "P99 E2E"),
        ("ttft_mean_s", "mean TTFT"),
        ("makespan_s", "makespan"),
    )
    figure = make_subplots(
        cols=len(panels),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        subplot_titles=[title for _, title in panels],
    )
    rivals = [name for name in reversed(styles.policies) if name != styles.reference]
    for column, (key, _) in enumerate(panels, start=1):
        shown = [name for name in rivals if styles.policies[name]["ratio"][key][0] is not None]
        ratios = [styles.policies[name]["ratio"][key] for name in shown]
        values = [100 * (1 - ratio[0]) for ratio in ratios]
        # A policy that is far worse is marked at the edge: it would squeeze all others into a corner.
        edge = -1.5 * max([5.0, *values])
        beyond = [value < edge for value in values]
        # The upper end of a gain is the lower end of its ratio.
        above, below = ([100 * arm for arm in _arms(ratios, end)] for end in (1, 2))
        figure.add_trace(
            go.Scatter(
                x=[max(value, edge) for value in values],
                y=shown,
                mode="markers+text",
                text=[f"{value:,.0f} %" if far else "" for value, far in zip(values, beyond, strict=True)],
                textposition="middle right",
                marker={
                    "color": [styles.colour(name) for name in shown],
                    "size": 9,
                    "symbol": ["triangle-left" if far else "circle" for far in beyond],
                },
                error_x={
                    "array": [0.0 if far else arm for arm, far in zip(above, beyond, strict=True)],
                    "arrayminus": [0.0 if far else arm for arm, far in zip(below, beyond, strict=True)],
                    "color": _WHISKER,
                    "thickness": 1.4,
                    "width": 3,
                },
                customdata=values,
                hovertemplate="%{y}: %{customdata:.1f} % lower<extra></extra>",
                showlegend=False,
            ),
            row=1,
            col=column,
        )
        figure.add_vline(x=0, line={"color": REFERENCE_COLOUR, "width": 1}, row=1, col=column)
        figure.update_xaxes(ticksuffix=" %", nticks=5, row=1, col=column)
    figure.update_yaxes(categoryorder="array", categoryarray=rivals)
    return styled(figure, height=110 + 24 * len(rivals), left=150)


def _arms(ratios: Sequence[Sequence[float | None]], end: int) -> list[float]:
    """Lengths of the error bars towards the lower (1) or upper (2) end of the interval; 0 without one."""
    arms = []
    for ratio in ratios:
        value, limit = ratio[0], ratio[end]
        arms.append(0.0 if value is None or limit is None else abs(value - limit))
    return arms


def distributions(styles: Styles, point: Point) -> Figure:
    """Cumulative distributions of E2E and TTFT over the first seed."""
    figure = make_subplots(
        cols=2, horizontal_spacing=0.06, subplot_titles=("E2E, first seed", "TTFT, first seed")
    )
    curves = {run["policy"]: run["curves"] for run in point.results["runs"] if run.get("curves")}
    for policy in styles.policies:
        for column, key in enumerate(("e2e_s", "ttft_s"), start=1):
            quantiles = curves[policy][key]
            levels = np.linspace(0, 100, len(quantiles))
            figure.add_trace(
                go.Scatter(
                    x=quantiles,
                    y=levels,
                    mode="lines",
                    hovertemplate=f"{policy}: %{{y:.1f}} % within %{{x:.2f}} s<extra></extra>",
                    **styles.trace(policy, in_legend=column == 1),
                ),
                row=1,
                col=column,
            )
    figure.update_xaxes(**LOGARITHMIC, title="seconds")
    figure.update_yaxes(ticksuffix=" %", range=[0, 101])
    figure.update_yaxes(title="share of requests", col=1)
    return styled(figure, height=450, legend=True)


def mean_and_tail(styles: Styles) -> Figure:
    """Mean against P99, both as ratios to the reference: what the mean costs the tail."""
    figure = go.Figure()
    beyond = []
    for policy, figures in styles.policies.items():
        mean, tail = figures["ratio"]["e2e_mean_s"], figures["ratio"]["e2e_p99_s"]
        if mean[0] is None or tail[0] is None:
            continue
        if max(mean[0], tail[0]) > _WORST_RATIO:
            beyond.append(f"{policy} ({mean[0]:.2f}, {tail[0]:.2f})")
            continue
        figure.add_trace(
            go.Scatter(
                x=[mean[0]],
                y=[tail[0]],
                mode="markers",
                name=policy,
                marker={"color": styles.colour(policy), "size": 10},
                error_x=_whiskers(mean),
                error_y=_whiskers(tail),
                hovertemplate=f"{policy}: mean x %{{x:.3f}}, P99 x %{{y:.3f}}<extra></extra>",
            )
        )
    for draw in (figure.add_vline, figure.add_hline):
        draw(1, line={"color": REFERENCE_COLOUR, "width": 1, "dash": "dot"})
    if beyond:
        text = f"beyond these axes: {', '.join(beyond)}"
        corner = {"x": 1, "y": 1, "xref": "paper", "yref": "paper", "xanchor": "right", "yanchor": "bottom"}
        figure.add_annotation(text=text, showarrow=False, **corner)
    figure.update_xaxes(title=f"mean E2E / {styles.reference}")
    figure.update_yaxes(title=f"P99 E2E / {styles.reference}")
    return styled(figure, height=480, legend=True)


def _whiskers(ratio: Sequence[float | None]) -> dict[str, Any]:
    value, low, high = ratio
    if value is None or low is None or high is None:
        return {"visible": False}
    return {
        "array": [high - value],
        "arrayminus": [value - low],
        "color": "#8b949e",
        "thickness": 1,
        "width": 2,
    }


def who_pays(styles: Styles) -> Figure:
    """P99 E2E by quartile of output length, as a ratio to the reference."""
    figure = go.Figure()
    for policy, figures in styles.policies.items():
        ratios = figures["ratio"]["e2e_p99_by_output_quartile_s"]
        figure.add_trace(
            go.Scatter(
                x=QUARTILES,
                y=[ratio[0] for ratio in ratios],
                error_y={
                    "array": _arms(ratios, 2),
                    "arrayminus": _arms(ratios, 1),
                    "thickness": 1,
                    "width": 3,
                },
                mode="lines+markers",
                hovertemplate=f"{policy}, %{{x}}: x %{{y:.3f}}<extra></extra>",
                **styles.trace(policy, in_legend=True),
            )
        )
    figure.update_xaxes(title="quartile of output length")
    figure.update_yaxes(title=f"P99 E2E / {styles.reference}")
    return styled(figure, height=450, legend=True)


def occupancy(styles: Styles, point: Point) -> Figure:
    """Queues and KV use over the first seed: the reference on the left, a policy to choose on the right."""
    samples = {run["policy"]: run["occupancy"] for run in point.results["runs"] if run.get("occupancy")}
    rivals = [name for name in styles.policies if name != styles.reference and name in samples]
    shown = [name for name in (styles.reference, *rivals) if name in samples]
    rows = ("waiting at the router", "waiting in the engine, per instance", "KV cache in use, per instance")
    columns = 2 if rivals else 1
    figure = make_subplots(
        rows=3, cols=columns, shared_xaxes=True, horizontal_spacing=0.05, vertical_spacing=0.07,
        row_heights=[0.24, 0.38, 0.38], subplot_titles=[title for title in rows for _ in range(columns)],
    )  # fmt: skip
    # One scale for all, set by those that a reader looks at first.
    deepest = max(np.max(samples[name]["queue"]) for name in shown if styles.is_shown(name))
    owners = []
    for name in shown:
        column = 1 if name == styles.reference else 2
        for row, trace in enumerate(_occupancy_traces(styles, name, samples[name], deepest), start=1):
            trace.visible = column == 1 or name == rivals[0]
            figure.add_trace(trace, row=row, col=column)
            owners.append(name)
    held = max(np.max(samples[name]["router_queue"]) for name in shown if styles.is_shown(name))
    figure.update_yaxes(range=[0, max(1.0, held) * 1.05], row=1)
    for row in (2, 3):
        figure.update_yaxes(title="instance", dtick=_tick(len(samples[shown[0]]["kv_usage"])), row=row, col=1)
    figure.update_xaxes(title="seconds", row=3)
    figure = styled(figure, height=680, right=90)
    if rivals:
        buttons = [
            {
                "label": name,
                "method": "update",
                "args": [{"visible": [owner in {styles.reference, name} for owner in owners]}],
            }
            for name in rivals
        ]
        figure.update_layout(
            margin={"t": 88},
            updatemenus=[{"buttons": buttons, "x": 0.52, "xanchor": "left", "y": 1.15, "bgcolor": "white"}],
        )
        figure.add_annotation(
            text=f"<b>{styles.reference}</b>",
            x=0,
            y=1.125,
            xref="paper",
            yref="paper",
            showarrow=False,
            xanchor="left",
        )
    return figure


def _occupancy_traces(styles: Styles, policy: str, sample: Mapping[str, Any], deepest: float) -> list[Any]:
    time = sample["time_s"]
    instances = list(range(len(sample["kv_usage"])))
    # A cluster's worth of instances is a picture; lines of a hundred instances are not.
    common = {"x": time, "y": instances, "zmin": 0, "showscale": policy == styles.reference}
    bar = {"thickness": 10, "len": 0.34, "x": 1.01, "outlinewidth": 0}
    return [
        go.Scatter(
            x=time,
            y=sample["router_queue"],
            mode="lines",
            line={"color": styles.colour(policy), "width": 1.5, "shape": "hv"},
            fill="tozeroy",
            hovertemplate="%{x:.0f} s: %{y} requests<extra></extra>",
            showlegend=False,
        ),
        go.Heatmap(
            z=sample["queue"],
            zmax=max(1.0, deepest),
            colorscale=[[0, "#f6f8fa"], [0.25, "#fbd7a8"], [1, "#b3370a"]],
            colorbar={**bar, "y": 0.52, "title": {"text": "requests"}},
            hovertemplate="instance %{y}, %{x:.0f} s: %{z} requests<extra></extra>",
            **common,
        ),
        go.Heatmap(
            z=(100 * np.array(sample["kv_usage"])).round(1).tolist(),
            zmax=100,
            colorscale=[[0, "#f6f8fa"], [0.6, "#8fb8de"], [1, "#0b2e59"]],
            colorbar={**bar, "y": 0.14, "title": {"text": "% of KV"}},
            hovertemplate="instance %{y}, %{x:.0f} s: %{z:.0f} %<extra></extra>",
            **common,
        ),
    ]


def _tick(instances: int) -> int:
    return max(1, math.ceil(instances / 8))


def against_load(styles: Styles, points: Sequence[Point]) -> Figure:
    """Latency and goodput over the loads of a sweep."""
    panels = (("e2e_mean_s", "mean E2E"), ("e2e_p99_s", "P99 E2E"), ("goodput", "goodput"))
    figure = make_subplots(
        cols=len(panels), horizontal_spacing=0.06, subplot_titles=[title for _, title in panels]
    )
    loads = [point.load for point in points]
    for policy in styles.policies:
        for column, (key, _) in enumerate(panels, start=1):
            values = [point.figures[policy][key] for point in points]
            figure.add_trace(
                go.Scatter(
                    x=loads,
                    y=values,
                    mode="lines+markers",
                    marker={"size": 5},
                    hovertemplate=f"{policy}, load %{{x}}: %{{y:.3g}}<extra></extra>",
                    **styles.trace(policy, in_legend=column == 1),
                ),
                row=1,
                col=column,
            )
    figure.update_xaxes(title="load", tickvals=loads if len(loads) <= _SHOWN else loads[::2])
    figure.update_yaxes(**LOGARITHMIC, title="seconds", col=1)
    figure.update_yaxes(**LOGARITHMIC, col=2)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero", col=3)
    return styled(figure, height=450, legend=True)


def styled(figure: Figure, *, height: int, left: int = 64, right: int = 24, legend: bool = False) -> Figure:
    """The figure in the style of every page: `height` and margins in pixels."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": left, "r": right, "t": 44, "b": 48},
        font={"family": _FONT, "size": 12, "color": _INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        hoverlabel={"font": {"family": _FONT}},
        legend={"orientation": "v", "x": 1.01, "y": 1, "font": {"size": 11}, "tracegroupgap": 0},
        showlegend=legend,
    )
    figure.update_xaxes(gridcolor=_GRID, linecolor="#d0d7de", zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor=_GRID, linecolor="#d0d7de", zeroline=False, automargin=True)
    figure.update_annotations(font={"size": 13, "family": _FONT})
    return figure
