"""The columns that only traces have: arrivals, names and prefix hashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from irouter._columns import numbers, refuse
from irouter._core import IrouterError
from irouter._extras import require

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from irouter.evaluation.trace_formats import Clock

_DATE_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f")
_DATE_FORMATS_WITH_ZONE = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f%#z")


def arrivals(column: pl.Series, where: str, clock: Clock) -> NDArray[np.float64]:
    """The column as seconds, in order. Dates count from the first."""
    if clock == "date" or (clock == "seconds or date" and _is_date(column)):
        seconds = _dates(column, where)
    elif clock == "seconds or date":
        seconds = numbers(column, where, least=0.0, expected="a number of seconds, or a date and time")
    else:
        seconds = numbers(column, where, least=0.0, expected=f"a number of {clock}, zero or more")
        seconds = seconds / 1000.0 if clock == "milliseconds" else seconds
    later = np.concatenate(([False], np.diff(seconds) < 0))
    rows = np.flatnonzero(later)
    if rows.size:
        row = int(rows[0])
        message = (
            f"{where}: row {row + 1}: `{column.name}` is {column[row]!r}, "
            f"expected at or after row {row}, {column[row - 1]!r}: sort the file by arrival"
        )
        raise IrouterError(message)
    return seconds


def _is_date(column: pl.Series) -> bool:
    """Whether it has dates, by its type or, where it has texts, by the first of them."""
    text = str(column.dtype) == "String"
    return column.dtype.is_temporal() or (
        text and len(str(column[0]).split("-")) == len(("year", "month", "day"))
    )


def _dates(column: pl.Series, where: str) -> NDArray[np.float64]:
    pl = require("polars", extra="cli", purpose="reading a trace")
    if column.dtype == pl.String:
        parsed = pl.coalesce(
            *(
                pl.col(column.name).str.to_datetime(form, time_unit="ns", strict=False)
                for form in _DATE_FORMATS
            ),
            *(
                pl.col(column.name)
                .str.to_datetime(form, time_unit="ns", strict=False)
                .dt.replace_time_zone(None)
                for form in _DATE_FORMATS_WITH_ZONE
            ),
        )
        times = column.to_frame().select(parsed).to_series()
    elif column.dtype.is_temporal():
        times = column.dt.cast_time_unit("ns")
    else:
        times = pl.Series([None] * len(column), dtype=pl.Datetime("ns"))
    refuse(where, column, times.is_null().to_numpy(), "a date and time such as 2023-11-16 18:15:46.68")
    nanoseconds: NDArray[np.int64] = times.cast(pl.Int64).to_numpy()
    seconds: NDArray[np.float64] = (nanoseconds - nanoseconds[0]) / 1e9
    return seconds


def codes(column: pl.Series, where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The column as numbers of its distinct values in order of appearance, and these values."""
    pl = require("polars", extra="cli", purpose="reading a trace")
    refuse(where, column, column.is_null().to_numpy(), "a name or a number")
    text = column.cast(pl.String)
    names = text.unique(maintain_order=True)
    numbered = pl.DataFrame({"name": names, "code": np.arange(len(names), dtype=np.int64)})
    joined = pl.DataFrame({"name": text}).join(numbered, on="name", how="left", maintain_order="left")
    return joined["code"].to_numpy(), tuple(names.to_list())


def texts(column: pl.Series, where: str) -> tuple[str, ...]:
    """A column of texts, none of them empty."""
    values = column.to_list()
    bad = [not isinstance(value, str) or not value or value.isspace() for value in values]
    refuse(where, column, np.array(bad), "a text that is not empty")
    return tuple(values)


def hashes(column: pl.Series, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A column of lists as offsets (one more than rows) and values, one after the other."""
    pl = require("polars", extra="cli", purpose="reading a trace")
    expected = "a list of whole numbers"
    is_list = isinstance(column.dtype, pl.List) and (
        column.dtype.inner.is_integer() or column.dtype.inner == pl.Null
    )
    refuse(where, column, np.full(len(column), not is_list) | column.is_null().to_numpy(), expected)
    values = column.explode(empty_as_null=False)
    missing = column.list.eval(pl.element().is_null()).list.any().to_numpy()
    refuse(where, column, missing, expected)
    offsets = np.concatenate(([0], np.cumsum(column.list.len().to_numpy(), dtype=np.int64)))
    return offsets, values.cast(pl.Int64).to_numpy()
