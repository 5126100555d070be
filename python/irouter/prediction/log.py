"""Request logs with prompts: what predictors are trained and judged on."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter._columns import refuse, whole_numbers
from irouter._core import IrouterError
from irouter._names import nearest
from irouter._tables import read_table
from irouter.prediction.requests import LONGEST_PROMPT_BYTES, Requests

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

_PURPOSE: Final = "reading a request log"
_REQUIRED: Final = ("prompt", "output_tokens")
_OPTIONAL: Final = ("task", "app", "finish", "group", "split")
_FINISHES: Final = ("stop", "length")
SPLITS: Final = ("train", "val", "test")
"""What rows are for: to learn from, to calibrate on, to judge by."""
# Of 256: 80 % to learn from, 10 % each to calibrate on and to judge by.
_SPLIT_ENDS: Final = (205, 230)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RequestLog:
    """Requests with their texts and the lengths that they had; row `i` of everything is request `i`.

    Attributes:
        name: Name of the file.
        requests: Prompts, tasks and applications.
        output_tokens: Tokens that each request produced.
        cut: Whether a limit ended it (`finish` = `length`), so that its length is at least this.
        groups: Rows of one group are never parted between splits.
        split: What each row is for.
    """

    name: str
    requests: Requests
    output_tokens: NDArray[np.int64]
    cut: NDArray[np.bool_]
    groups: NDArray[np.str_]
    split: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.output_tokens)

    def part(self, *splits: str) -> RequestLog:
        """The rows of some splits.

        Raises:
            IrouterError: When there are none.
        """
        rows = np.flatnonzero(np.isin(self.split, splits))
        if not rows.size:
            raise IrouterError(f"{self.name}: no row is of the split {' or '.join(splits)}")
        return self.rows(rows)

    def rows(self, rows: NDArray[np.int64]) -> RequestLog:
        """Some rows, in the order given."""
        requests = Requests(
            *(tuple(column[row] for row in rows) for column in dataclasses.astuple(self.requests))
        )
        columns = {field: getattr(self, field)[rows] for field in ("output_tokens", "cut", "groups", "split")}
        return dataclasses.replace(self, requests=requests, **columns)

    def with_requests(self, requests: Requests) -> RequestLog:
        """The log with other requests in their place, such as ones whose tasks are named."""
        return dataclasses.replace(self, requests=requests)

    def without_tasks(self) -> RequestLog:
        """The log of somebody who knows no tasks."""
        return self.with_requests(dataclasses.replace(self.requests, tasks=(None,) * len(self)))

    @property
    def is_task_known(self) -> bool:
        """Whether rows name more than one task."""
        return len(set(self.requests.tasks)) > 1


def read_log(path: str | Path) -> RequestLog:
    """Reads a request log: JSONL, Parquet or CSV.

    Columns are `prompt`, `output_tokens` and, where there are any, `task`, `app`, `finish` (`stop`, or `length` for
    what `max_tokens` cut), `group` (rows that are not to be parted, else those of equal prompts) and `split` (`train`,
    `val` or `test`, else drawn by group).

    Raises:
        IrouterError: Naming the file, the row (counted from 1 below the header) and the column.
    """
    path = Path(path)
    frame = read_table(path, purpose=_PURPOSE)
    where = path.name
    for column in _REQUIRED:
        if column not in frame.columns:
            others = [name for name in frame.columns if name not in (*_REQUIRED, *_OPTIONAL)]
            hint = nearest(column, others) or f"; the file has {', '.join(frame.columns)}"
            raise IrouterError(f"{where}: no column `{column}`{hint}")
    if frame.height == 0:
        raise IrouterError(f"{where}: the log has no requests")
    prompts = _texts(frame["prompt"], where)
    tokens = whole_numbers(frame["output_tokens"], where, least=1, what="a whole number of tokens")
    finish = _names(frame, "finish", where, _FINISHES)
    groups = _names(frame, "group", where) or prompts
    split = _names(frame, "split", where, SPLITS) or [_drawn_split(str(group)) for group in groups]
    tasks, apps = _names(frame, "task", where), _names(frame, "app", where)
    return RequestLog(
        name=path.stem,
        requests=Requests(
            tuple(prompts),
            tuple(tasks or [None] * frame.height),
            tuple(apps or [None] * frame.height),
        ),
        output_tokens=tokens,
        cut=np.array([value == "length" for value in finish or [None] * frame.height]),
        groups=np.array([_digest(str(group)).hex()[:16] for group in groups]),
        split=np.array(split),
    )


def _texts(column: pl.Series, where: str) -> list[str]:
    text = str(column.dtype) == "String"
    values: list[Any] = column.to_list()
    bad = [not text or not value or value.isspace() for value in values]
    refuse(where, column, np.array(bad), "a text that is not empty")
    sizes = np.array([len(value.encode()) for value in values])
    rows = np.flatnonzero(sizes > LONGEST_PROMPT_BYTES)
    if rows.size:
        raise IrouterError(
            f"{where}: row {rows[0] + 1}: `prompt` has {sizes[rows[0]]:,} bytes, "
            f"expected at most {LONGEST_PROMPT_BYTES:,}"
        )
    return values


def _names(
    frame: pl.DataFrame, column: str, where: str, known: tuple[str, ...] | None = None
) -> list[str | None] | None:
    """A column of names, `None` without it; an empty field is `None`."""
    if column not in frame.columns:
        return None
    values = [None if value is None or value == "" else str(value) for value in frame[column].to_list()]
    if known is not None:
        expected = " or ".join(f"`{name}`" for name in known)
        optional = column == "finish"
        bad = [value not in known and not (optional and value is None) for value in values]
        refuse(where, frame[column], np.array(bad), expected)
    return values


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _drawn_split(group: str) -> str:
    return SPLITS[int(np.searchsorted(_SPLIT_ENDS, _digest(group)[0], side="right"))]
