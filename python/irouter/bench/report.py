"""The report of a result as one page that needs nothing else: no network, no other file."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from irouter.bench import report_plots
from irouter.bench.kinds import Kind, kind
from irouter.bench.leaderboard import classes, failures, leaderboard
from irouter.evaluation.page import document, notes, plot, row, section, table, text_cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from irouter.bench.leaderboard import Score, Standing
    from irouter.bench.result import Result


def page(result: Result) -> str:
    """The report as HTML; the same result gives the same bytes."""
    return document(
        f"LLM routers compared: suite {result.suite}, {_predictors(result)}",
        facts=_facts(result),
        headline=_headline(leaderboard(result)),
        sections=_sections(result),
    )


def _predictors(result: Result) -> str:
    """The predictors of the leaderboard, as every title has them."""
    names = dict.fromkeys(point["predictor"] for point in result.points.values() if point["class"])
    return f"predictor {', '.join(names)}"


def _facts(result: Result) -> list[str]:
    points = [point for point in result.points.values() if point["class"]]
    policies = dict.fromkeys(policy for entry in result.entries.values() for policy in entry["policies"])
    conditions = dict.fromkeys(point["conditions"] for point in points)
    runs = sum(len(rows) for point in result.points.values() for rows in point["windows"].values())
    return [
        f"{result.data['mode']} run of irouter {result.data['version']}",
        f"{len(policies)} policies at {len(points)} points",
        f"{len(result.points) - len(points)} more points in sweeps, {len(result.capacity)} capacities",
        _predictors(result),
        f"{', '.join(conditions)} conditions",
        f"up to {max((point['seeds'] for point in points), default=0)} windows, {runs:,} runs",
        f"digest {result.data['digest'][:12]}",
    ]


def _headline(standings: Sequence[Standing]) -> str:
    complete = [(standing, standing.overall) for standing in standings if standing.overall is not None]
    if not complete:
        return "No policy ran in every class."
    best, score = complete[0]
    sentence = (
        f"Lowest mean E2E over all classes: <b>{escape(best.policy)}</b>, {score.mean:.3f} of the reference's; its P99 "
        f"is {score.tail:.3f} of the reference's."
    )
    peers = [(standing, score) for standing, score in complete if kind(standing.policy) is Kind.PEER]
    if peers and kind(best.policy) is not Kind.PEER:
        peer, score = peers[0]
        sentence += (
            f" The first other router as shipped: <b>{escape(peer.policy)}</b>, {score.mean:.3f} and "
            f"{score.tail:.3f}."
        )
    return sentence


def _sections(result: Result) -> Iterator[str]:
    standings, predictors = leaderboard(result), escape(_predictors(result))
    if failed := failures(result):
        text = "Their figures are those of the rule that stood in for them as much as their own."
        yield section("Policies that failed", text, notes(failed))
    if standings:
        text = (
            "E2E against the reference: geometric mean over the points of a class of the ratio of means, and in "
            "brackets of the ratio of P99s. Every class weighs the same in the first column."
        )
        yield section(f"Leaderboard, {predictors}", text, _leaderboard(result, standings))
        text = (
            "Ratios to the reference; below and left of the dotted lines both are better. Under each title are the "
            "policies that no other beats in both, from the lowest mean to the lowest P99."
        )
        yield section(
            f"Mean against P99, {predictors}", text, plot("frontiers", report_plots.frontiers(result))
        )
        policies = [standing.policy for standing in standings if kind(standing.policy) is not Kind.QUEUED]
        text = (
            "P99 E2E by quartile of output length, against the reference: an order that favours short requests "
            "shows on the right of each block."
        )
        yield section(
            f"Who pays, {predictors}", text, plot("who-pays", report_plots.who_pays(result, policies))
        )
    if result.capacity:
        yield _capacity(result, [standing.policy for standing in standings])
    yield from _sweeps(result)
    yield section("Points", "", _points(result))
    if result.data["speed"]:
        text = "Router and engines together, on a machine that had all its threads busy."
        yield section("Speed of the simulation", text, plot("speeds", report_plots.speeds(result)))
    yield section("Notes", "", notes(_remarks(result)))


def _capacity(result: Result, ranked: Sequence[str]) -> str:
    """Capacities in the order of the leaderboard, then those that are not on it."""
    entries = result.capacity.values()
    policies = list(dict.fromkeys(policy for entry in entries for policy in entry["policies"]))
    policies.sort(key=lambda policy: ranked.index(policy) if policy in ranked else len(ranked))
    predictors = ", ".join(dict.fromkeys(entry["predictor"] for entry in entries))
    shares = ", ".join(dict.fromkeys(f"{entry['target']:.0%}" for entry in entries))
    text = (
        f"The highest arrival rate at which {shares} of the requests meet the SLO (TTFT within 0.5 s and 5 times, mean "
        "TPOT within 5 times what the request takes alone), with 95 % intervals where there are several windows. "
        "The dotted line is the reference's. A policy without a bar met it at no load that was tried."
    )
    figure = plot("capacity", report_plots.capacities(result, policies))
    return section(f"Capacity, predictor {escape(predictors)}", text, figure)


def _leaderboard(result: Result, standings: Sequence[Standing]) -> str:
    by_class = classes(result)
    references = {point["reference"] for point in result.points.values()}
    rows = []
    for standing in standings:
        each = kind(standing.policy)
        scores = [standing.overall, *(standing.by_class.get(name) for name in by_class)]
        cells = [text_cell(each.title), *map(_score, scores)]
        rows.append(row(standing.policy, cells, colour=each.colour, reference=standing.policy in references))
    return table(["policy", "whose", "all classes", *by_class], rows, text_columns=1)


def _score(score: Score | None) -> str:
    if score is None:
        return "<td>-</td>"
    return (
        f'<td style="background:{_tint(score.mean)}"><b>{score.mean:.3f}</b> '
        f'<span style="color:var(--muted)">({score.tail:.3f})</span></td>'
    )


def _tint(ratio: float) -> str:
    """Green below 1, red above, stronger with the distance."""
    strength = min(1.0, abs(math.log(ratio)) / math.log(1.5))
    return f"rgba({'26,127,55' if ratio < 1 else '180,35,24'},{0.32 * strength:.3f})"


def _sweeps(result: Result) -> Iterator[str]:
    sweeps: dict[str, list[Mapping[str, Any]]] = {}
    for point in result.points.values():
        if point["sweep_of"]:
            sweeps.setdefault(point["sweep_of"], []).append(point)
    for name, points in sweeps.items():
        base = result.points.get(points[0]["base"])
        title = points[0]["title"].partition(": ")[0]
        predictors = ", ".join(dict.fromkeys(point["predictor"] for point in points))
        text = f"At {escape(points[0]['base'])}, against the reference under the same settings."
        figure = plot(f"sweep-{name}", report_plots.sweep(points, base))
        yield section(f"Sweep: {escape(title)}, predictor {escape(predictors)}", text, figure)


def _points(result: Result) -> str:
    headings = [
        "point",
        "what",
        "cluster",
        "load",
        "requests/s",
        "windows",
        "measured",
        "predictor (tau-b)",
        "scenario",
    ]
    rows = []
    for point in result.points.values():
        workload, tau = point["workload"], point["predictor_quality"]["tau_b"]
        cells = [
            _number(workload["load"]),
            _number(workload["rate"]),
            f"{point['seeds']}",
            f"{sum(workload['requests']):,}",
            point["predictor"] if tau is None else f"{point['predictor']} ({tau:.2f})",
            point["scenario_sha256"][:8],
        ]
        texts = [point["title"], f"{point['instances']} x {point['profile']}"]
        rows.append(
            f"<tr><td>{escape(point['name'])}</td>"
            + "".join(map(text_cell, texts))
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + "</tr>"
        )
    return table(headings, rows, text_columns=2)


def _number(value: float | None) -> str:
    """A load or a rate; a closed loop has neither."""
    return "-" if value is None else f"{value:.2f}"


def _remarks(result: Result) -> Iterator[str]:
    for skipped in result.data["skipped"]:
        yield f"skipped: {skipped['name']} ({skipped['title']}), no trace was given; {skipped['trace_source']}"
    yield from _fewer_windows(result)
    yield from _own_figures(result)
    for point in result.points.values():
        if point["workload"]["disjoint"] is False:
            yield f"{point['name']}: windows overlap, its intervals cover alignment only"
    yield "every policy met the same arrivals, lengths, predictions and noise; the same warm-up is left out for all"
    yield f"irouter bench verify repeats runs of this result; its digest is {result.data['digest']}"


def _fewer_windows(result: Result) -> Iterator[str]:
    fewer: dict[str, set[str]] = {}
    for point in result.entries.values():
        for policy, rows in point["windows"].items():
            if len(rows) < point["seeds"]:
                fewer.setdefault(policy, set()).add(f"{len(rows)} of {point['seeds']}")
    for policy, counts in fewer.items():
        yield f"{policy} is slow to simulate and ran on {', '.join(sorted(counts))} windows of a point"


def _own_figures(result: Result) -> Iterator[str]:
    """What policies say of themselves, such as how well their own predictor did: the range over all points."""
    ranges: dict[tuple[str, str], list[float]] = {}
    for point in result.points.values():
        for policy, figures in point["policies"].items():
            for name, value in figures.get("figures", {}).items():
                ranges.setdefault((policy, name), []).append(value)
    for (policy, name), values in ranges.items():
        yield f"{policy}: {name.replace('_', ' ')} from {min(values):,.1f} to {max(values):,.1f} over the points"
