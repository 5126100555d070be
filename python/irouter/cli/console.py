"""Where the commands print: results on standard output, progress on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

# Tables keep their columns when the output goes to a file or a pipe.
_PIPE_WIDTH = 160

out = Console()
if not out.is_terminal:
    out = Console(width=_PIPE_WIDTH)
err = Console(stderr=True)


def written(what: str, file: Path) -> None:
    """Says that a file was written, and what is in it."""
    err.print(f"{what}: {file}", highlight=False, soft_wrap=True)


def plain_table(title: str | None = None, *, gap: int = 2) -> Table:
    """An empty table without lines, its columns `gap` apart."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, gap, 0, 0),
    )


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that `report(done, total)` moves; it disappears at the end."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
