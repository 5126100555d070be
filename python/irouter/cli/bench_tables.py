"""Results of a benchmark as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from irouter.bench.leaderboard import Score, classes, failures, leaderboard
from irouter.cli.console import out, plain_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from irouter.bench.difference import Difference
    from irouter.bench.result import Result

# A table longer than this is a file.
_MOST_DIFFERENCES: Final = 60


def print_result(result: Result) -> None:
    """Prints the leaderboard, what was skipped, and the digest."""
    points = result.points.values()
    predictors = ", ".join(dict.fromkeys(point["predictor"] for point in points if point["class"]))
    table = plain_table(
        f"E2E / {', '.join(dict.fromkeys(point['reference'] for point in points))}: mean (P99), "
        f"geometric means, predictor {predictors}"
    )
    table.add_column("policy", no_wrap=True)
    by_class = classes(result)
    for heading in ("all classes", *by_class):
        table.add_column(heading, justify="right", no_wrap=True)
    for standing in leaderboard(result):
        scores = [standing.overall, *(standing.by_class.get(name) for name in by_class)]
        table.add_row(standing.policy, *map(_score, scores))
    for failed in failures(result):
        out.print(Text(failed, style="bold red"))
    if by_class:
        out.print(table)
    if result.capacity:
        out.print(_capacities(result))
    for skipped in result.data["skipped"]:
        out.print(
            Text(
                f"skipped {skipped['name']}: no trace in --traces; {skipped['trace_source']}", style="yellow"
            )
        )
    windows = sum(len(rows) for point in points for rows in point["windows"].values())
    out.print(
        f"suite {result.suite}, {result.data['mode']}: {len(result.points)} points, {windows:,} runs, "
        f"digest {result.data['digest']}",
        highlight=False,
        soft_wrap=True,
    )


def _capacities(result: Result) -> Table:
    entries = result.capacity
    predictors = ", ".join(dict.fromkeys(entry["predictor"] for entry in entries.values()))
    table = plain_table(f"Capacity in requests/s, and against the reference's, predictor {predictors}")
    table.add_column("policy", no_wrap=True)
    for name in entries:
        table.add_column(name.removeprefix("capacity-"), justify="right", no_wrap=True)
    for policy in dict.fromkeys(policy for entry in entries.values() for policy in entry["policies"]):
        found = [entry["policies"].get(policy) for entry in entries.values()]
        table.add_row(policy, *map(_capacity, found))
    return table


def _capacity(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return "-"
    value = figures["ratio"][0]
    return f"{figures['rate']:.2f}" + ("" if value is None else f" ({value:.3f})")


def print_differences(differences: Sequence[Difference], one: str, other: str) -> None:
    """Prints values by which two versions differ, the largest relative change of each point first."""
    table = plain_table(f"{len(differences):,} values differ")
    for heading in ("point", "policy", "figure"):
        table.add_column(heading, overflow="fold")
    for heading in (one, other, "change"):
        table.add_column(heading, justify="right", overflow="fold")
    for difference in differences[:_MOST_DIFFERENCES]:
        change = "" if difference.change is None else f"{difference.change:+.2%}"
        values = [_value(value) for value in (difference.one, difference.other)]
        table.add_row(difference.point, difference.policy, difference.key, *values, change)
    out.print(table)
    if len(differences) > _MOST_DIFFERENCES:
        out.print(f"and {len(differences) - _MOST_DIFFERENCES:,} more", highlight=False)


def _score(score: Score | None) -> Text:
    if score is None:
        return Text("-", style="dim")
    style = "green" if max(score.mean, score.tail) < 1 else "red" if score.mean > 1 else ""
    return Text(f"{score.mean:.3f} ({score.tail:.3f})", style=style)


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
