"""The plots of a result."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from irouter.bench.kinds import Kind, kind
from irouter.bench.leaderboard import classes, geometric_mean
from irouter.evaluation.presentation import QUARTILES
from irouter.evaluation.report_plots import PALETTE, REFERENCE_COLOUR, styled

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from irouter.bench.result import Result
    from irouter.evaluation.report_plots import Figure

_COLUMNS: Final = 3
# Policies that are worse than this many times the reference are counted beside a frontier, not drawn.
_WORST_RATIO: Final = 1.5
_TITLE_CHARACTERS: Final = 62
_TITLE_LINES: Final = 2
_ROW_PIXELS: Final = 17


def frontiers(result: Result) -> Figure:
    """Mean against P99 at every point of the leaderboard, the policies that no other beats in both named."""
    points = [point for point in result.points.values() if point["class"]]
    rows = math.ceil(len(points) / _COLUMNS)
    figure = make_subplots(
        rows=rows,
        cols=_COLUMNS,
        subplot_titles=[_title(point) for point in points],
        horizontal_spacing=0.055,
        vertical_spacing=0.32 / rows,
    )
    in_legend: set[Kind] = set()
    for index, point in enumerate(points):
        place = {"row": index // _COLUMNS + 1, "col": index % _COLUMNS + 1}
        shown = _shown(point)
        line = [shown[policy] for policy in _frontier(shown)]
        figure.add_trace(
            go.Scatter(
                x=[mean for mean, _ in line],
                y=[tail for _, tail in line],
                mode="lines",
                line={"color": "#b6bec6", "width": 1, "shape": "hv"},
                hoverinfo="skip",
                showlegend=False,
            ),
            **place,
        )
        for each in Kind:
            members = [policy for policy in shown if kind(policy) is each]
            if not members:
                continue
            figure.add_trace(
                go.Scatter(
                    x=[shown[policy][0] for policy in members],
                    y=[shown[policy][1] for policy in members],
                    mode="markers",
                    name=each.title,
                    legendgroup=each.name,
                    showlegend=each not in in_legend,
                    marker=_marker(each),
                    customdata=members,
                    hovertemplate="%{customdata}: mean x %{x:.3f}, P99 x %{y:.3f}<extra></extra>",
                ),
                **place,
            )
            in_legend.add(each)
        for draw in (figure.add_vline, figure.add_hline):
            draw(1, line={"color": REFERENCE_COLOUR, "width": 1, "dash": "dot"}, **place)
    figure.update_xaxes(tickformat=".2f", nticks=6)
    figure.update_yaxes(tickformat=".2f", nticks=6)
    for row in range(1, rows + 1):
        figure.update_yaxes(title="P99 E2E", row=row, col=1)
    figure.update_xaxes(title="mean E2E", row=rows)
    figure = styled(figure, height=100 + 350 * rows, legend=True)
    return figure.update_layout(
        legend={"orientation": "h", "x": 0, "y": 1.0 + 0.2 / rows, "yanchor": "bottom"}
    )


def _marker(each: Kind) -> dict[str, Any]:
    # A ring, so that a variant that changes nothing does not hide the policy that it is a variant of.
    if each in {Kind.EQUALISED, Kind.QUEUED}:
        return {"symbol": "circle-open", "size": 11, "color": each.colour, "line": {"width": 1.6}}
    return {"size": 7, "color": each.colour, "line": {"color": "white", "width": 0.5}}


def _title(point: Mapping[str, Any]) -> str:
    """The point, how many policies are not drawn, and the frontier from its lowest mean to its lowest P99."""
    ratios, shown = _ratios(point), _shown(point)
    beyond = len(ratios) - len(shown)
    lines, named = [""], _frontier(shown)
    for policy in named:
        part = f"{policy} → " if policy != named[-1] else policy
        if len(lines[-1]) + len(part) > _TITLE_CHARACTERS and lines[-1]:
            lines.append("")
        lines[-1] += part
    more = f" ({beyond} beyond {_WORST_RATIO:g})" if beyond else ""
    text = "<br>".join(lines[:_TITLE_LINES]) + (" …" if len(lines) > _TITLE_LINES else "")
    return f"<b>{point['name']}</b>{more}<br><span style='font-size:10px;color:#59636e'>{text}</span>"


def _shown(point: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The policies that fit the axes."""
    return {policy: pair for policy, pair in _ratios(point).items() if max(pair) <= _WORST_RATIO}


def _ratios(point: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Mean and P99 of each policy as ratios to the reference."""
    found = {}
    for policy, figures in point["policies"].items():
        mean, tail = figures["ratio"]["e2e_mean_s"][0], figures["ratio"]["e2e_p99_s"][0]
        if mean is not None and tail is not None:
            found[policy] = (mean, tail)
    return found


def _frontier(shown: Mapping[str, tuple[float, float]]) -> list[str]:
    """Policies that no other beats in both, the lowest mean first; of policies that are alike, the first."""
    best: list[str] = []
    for policy, (_, tail) in sorted(shown.items(), key=lambda item: item[1]):
        if not best or tail < shown[best[-1]][1]:
            best.append(policy)
    return best


def who_pays(result: Result, policies: Sequence[str]) -> Figure:
    """P99 E2E by quartile of output length, as geometric means of ratios to the reference, by class."""
    by_class = classes(result)
    figure = make_subplots(
        cols=len(by_class), shared_yaxes=True, horizontal_spacing=0.012, subplot_titles=list(by_class)
    )
    shown = list(reversed(policies))
    for column, points in enumerate(by_class.values(), start=1):
        values = [[_quartile(result, points, policy, quartile) for quartile in range(4)] for policy in shown]
        figure.add_trace(
            go.Heatmap(
                z=[[None if value is None else math.log2(value) for value in row] for row in values],
                x=QUARTILES,
                y=shown,
                text=[["" if value is None else f"{value:.2f}" for value in row] for row in values],
                texttemplate="%{text}",
                textfont={"size": 10},
                zmin=-1,
                zmid=0,
                zmax=1,
                colorscale=[[0, "#4ba36f"], [0.5, "#ffffff"], [1, "#dc7a6b"]],
                showscale=False,
                xgap=1,
                ygap=1,
                hovertemplate="%{y}, %{x}: x %{text}<extra></extra>",
            ),
            row=1,
            col=column,
        )
    figure = styled(figure, height=100 + _ROW_PIXELS * len(shown), left=190)
    figure.update_xaxes(tickfont={"size": 10}, tickangle=0, showgrid=False)
    figure.update_yaxes(showgrid=False, ticks="")
    return figure


def _quartile(result: Result, points: Iterable[str], policy: str, quartile: int) -> float | None:
    ratios = []
    for name in points:
        figures = result.points[name]["policies"].get(policy)
        ratio = None if figures is None else figures["ratio"]["e2e_p99_by_output_quartile_s"][quartile][0]
        if not ratio:
            return None
        ratios.append(ratio)
    return geometric_mean(ratios)


def capacities(result: Result, policies: Sequence[str]) -> Figure:
    """The highest rate at which each policy meets the SLO, with intervals; a line marks the reference's."""
    entries = list(result.capacity.values())
    figure = make_subplots(
        cols=len(entries),
        shared_yaxes=True,
        horizontal_spacing=0.015,
        subplot_titles=[f"<b>{entry['name'].removeprefix('capacity-')}</b>" for entry in entries],
    )
    shown = list(reversed(policies))
    for column, entry in enumerate(entries, start=1):
        figure.add_trace(_capacity_bars(entry, shown), row=1, col=column)
        rate = entry["policies"][entry["reference"]]["rate"]
        figure.add_vline(rate, line={"color": REFERENCE_COLOUR, "width": 1, "dash": "dot"}, row=1, col=column)
    figure.update_xaxes(title="requests/s", nticks=6, rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=shown, dtick=1)
    figure = styled(figure, height=130 + _ROW_PIXELS * len(shown), left=190)
    return figure.update_layout(bargap=0.3)


def _capacity_bars(entry: Mapping[str, Any], policies: Sequence[str]) -> Any:
    found = {policy: entry["policies"][policy] for policy in policies if policy in entry["policies"]}
    rates = [figures["rate"] for figures in found.values()]
    ends = [
        [rate if end is None else end for end in figures["ci95"]]
        for rate, figures in zip(rates, found.values(), strict=True)
    ]
    ratios = [figures["ratio"][0] for figures in found.values()]
    return go.Bar(
        x=rates,
        y=list(found),
        orientation="h",
        marker={"color": [kind(policy).colour for policy in found]},
        error_x={
            "array": [high - rate for rate, (_, high) in zip(rates, ends, strict=True)],
            "arrayminus": [rate - low for rate, (low, _) in zip(rates, ends, strict=True)],
            "color": "#8b949e",
            "thickness": 1,
            "width": 2,
        },
        customdata=["" if ratio is None else f", x {ratio:.3f}" for ratio in ratios],
        hovertemplate="%{y}: %{x:.2f} requests/s%{customdata}<extra></extra>",
        showlegend=False,
    )


def sweep(points: Sequence[Mapping[str, Any]], base: Mapping[str, Any] | None) -> Figure:
    """Mean and P99 E2E of a sweep's policies, as ratios to the reference under the same settings."""
    cases = [(point["name"].partition("/")[2], point) for point in points]
    if base is not None:
        cases.insert(0, ("as it is", base))
    policies = [policy for policy in points[0]["policies"] if policy != points[0]["reference"]]
    panels = (("e2e_mean_s", "mean E2E"), ("e2e_p99_s", "P99 E2E"))
    figure = make_subplots(cols=2, horizontal_spacing=0.07, subplot_titles=[title for _, title in panels])
    for index, policy in enumerate(policies):
        for column, (key, _) in enumerate(panels, start=1):
            ratios = [
                point["policies"].get(policy, {}).get("ratio", {}).get(key, [None] * 3) for _, point in cases
            ]
            figure.add_trace(
                go.Scatter(
                    x=[case for case, _ in cases],
                    y=[ratio[0] for ratio in ratios],
                    mode="lines+markers",
                    name=policy,
                    legendgroup=policy,
                    showlegend=column == 1,
                    line={"color": PALETTE[index % len(PALETTE)], "width": 1.6},
                    marker={"size": 7},
                    hovertemplate=f"{policy}, %{{x}}: x %{{y:.3f}}<extra></extra>",
                ),
                row=1,
                col=column,
            )
    figure.add_hline(1, line={"color": REFERENCE_COLOUR, "width": 1, "dash": "dot"})
    figure.update_yaxes(tickformat=".2f")
    return styled(figure, height=380, legend=True)


def speeds(result: Result) -> Figure:
    """Simulated requests per second of one thread, by policy."""
    by_speed = sorted(result.data["speed"].items(), key=lambda item: float(item[1]["requests_per_second"]))
    figure = go.Figure()
    for each in Kind:
        members = [(policy, speed) for policy, speed in by_speed if kind(policy) is each]
        if members:
            figure.add_trace(
                go.Bar(
                    x=[speed["requests_per_second"] for _, speed in members],
                    y=[policy for policy, _ in members],
                    orientation="h",
                    name=each.title,
                    marker={"color": each.colour},
                    hovertemplate="%{y}: %{x:,.0f} requests/s<extra></extra>",
                )
            )
    figure.update_xaxes(type="log", title="simulated requests per second and thread", dtick=1)
    figure.update_yaxes(categoryorder="array", categoryarray=[policy for policy, _ in by_speed], dtick=1)
    figure = styled(figure, height=110 + _ROW_PIXELS * len(by_speed), left=190, legend=True)
    return figure.update_layout(
        bargap=0.25, legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"}
    )
