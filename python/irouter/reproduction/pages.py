"""A reproduction as Markdown, and as one HTML page that needs nothing else."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from irouter.evaluation import page
from irouter.evaluation.report_plots import Styles, gains
from irouter.reproduction.words import HEADINGS, INTRODUCTION, agents, points, rows, situation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from irouter.evaluation import Comparison
    from irouter.reproduction.paper import Reproduction, Setup


def markdown(reproduction: Reproduction) -> str:
    """The tables as Markdown."""
    written_by = (
        "Written by `irouter reproduce paper --markdown FILE`, with trained agents by `--agents DIR`."
    )
    lines = [f"# {reproduction.title}", "", INTRODUCTION, "", written_by]
    for setup, comparison in reproduction.experiments:
        for title, point, printed in points(setup, comparison):
            lines += ["", f"## {title}", "", situation(setup, comparison, point)]
            if point is comparison.main and setup.agents:
                lines.append(agents(setup))
            lines += ["", _line(HEADINGS), _line("---" for _ in HEADINGS)]
            lines += [_line((f"`{row.policy}`", *row.cells())) for row in rows(point, printed)]
        lines += ["", "Unknown or chosen:", "", *(f"* {note}" for note in comparison.experiment.notes)]
    lines += ["", "## Reading", "", *(f"* {line}" for line in reproduction.reading)]
    return "\n".join(lines) + "\n"


def html(reproduction: Reproduction) -> str:
    """The page as HTML; the same reproduction gives the same bytes."""
    sections = [
        part for setup, comparison in reproduction.experiments for part in _sections(setup, comparison)
    ]
    reading = page.notes(line.replace("`", "") for line in reproduction.reading)
    return page.document(
        reproduction.title,
        facts=[setup.title for setup, _ in reproduction.experiments],
        headline=escape(INTRODUCTION).replace("`", ""),
        sections=[*sections, page.section("Reading", "", reading)],
    )


def _sections(setup: Setup, comparison: Comparison) -> Iterator[str]:
    styles = Styles(comparison)
    for title, point, printed in points(setup, comparison):
        text = escape(situation(setup, comparison, point))
        content = page.table(
            HEADINGS,
            [
                page.row(
                    row.policy,
                    [f"<td>{escape(cell)}</td>" for cell in row.cells()],
                    colour=styles.colour(row.policy),
                    reference=row.policy == styles.reference,
                )
                for row in rows(point, printed)
            ],
        )
        if point is comparison.main:
            text = f"{text} {escape(agents(setup))}"
            content = page.plot(f"gains-{setup.scenario}", gains(styles)) + content
            content += page.notes(comparison.experiment.notes)
        yield page.section(escape(title), text, content)


def _line(cells: Iterator[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
