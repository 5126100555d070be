"""Parts of a page that needs nothing else: no network, no other file."""

from __future__ import annotations

from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

from plotly.offline import get_plotlyjs

from irouter import _core
from irouter.evaluation.presentation import ratio, verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from irouter.evaluation.report_plots import Figure

# Modest tools: an image of a plot, and nothing that asks for a network.
_CONFIG = {
    "displayModeBar": "hover",
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}


_FOOT = "Every latency starts when the request arrives at the router. TTFT ends at the first token, E2E at the last."


def document(
    title: str,
    *,
    facts: Iterable[str],
    headline: str,
    sections: Iterable[str],
    footnote: str = _FOOT,
) -> str:
    """The whole page as HTML; the same parts give the same bytes.

    Args:
        title: Title, as text.
        facts: What a reader must know first, each in a few words, as text.
        headline: The result in a sentence, as HTML.
        sections: Sections, as HTML.
        footnote: What the page ends with, as text.
    """
    template = Template((resources.files(__package__) / "report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        plotly=get_plotlyjs(),
        facts="".join(f"<li>{escape(fact)}</li>" for fact in facts),
        headline=headline,
        sections="\n".join(sections),
        version=escape(_core.VERSION),
        footnote=escape(footnote),
    )


def section(title: str, text: str, content: str) -> str:
    """A section: title and text as HTML above its content."""
    paragraph = f"<p>{text}</p>" if text else ""
    return f"<section><h2>{title}</h2>{paragraph}{content}</section>"


def plot(name: str, figure: Figure) -> str:
    """A plot under a name of its own."""
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=_CONFIG)
    return html


def notes(lines: Iterable[str]) -> str:
    """A list of remarks, from text."""
    return f'<ul class="notes">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def text_cell(text: str) -> str:
    """A cell of words, which begin at its left."""
    return f'<td class="text">{escape(text)}</td>'


def table(headings: Sequence[str], rows: Iterable[str], *, text_columns: int = 0) -> str:
    """A table from headings as text and rows as HTML: a name, then `text_columns` of words, then figures."""
    classes = [' class="text"' if 0 < index <= text_columns else "" for index in range(len(headings))]
    head = "".join(
        f"<th{name}>{escape(heading)}</th>" for name, heading in zip(classes, headings, strict=True)
    )
    body = "".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def row(name: str, cells: Iterable[str], *, colour: str, reference: bool = False) -> str:
    """A row of a policy: its name with its colour, and cells as HTML."""
    mark = ' class="reference"' if reference else ""
    swatch = f'<span class="swatch" style="background:{colour}"></span>'
    return f"<tr{mark}><td>{swatch}{escape(name)}</td>{''.join(cells)}</tr>"


def ratio_cell(values: list[Any]) -> str:
    """A ratio with its interval, coloured where the interval excludes 1."""
    return f'<td class="{verdict(values)}">{ratio(values)}</td>'
