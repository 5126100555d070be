"""Columns of a trace file as checked NumPy arrays. An error names the file, the row and the field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from irouter._core import IrouterError
from irouter._extras import require

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from irouter.evaluation.trace_formats import Clock

# Within this a float holds every whole number.
_EXACT = 2.0**53
_DATE_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f")
_DATE_FORMATS_WITH_ZONE = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f%#z")


def _polars() -> Any:
    return require("polars", extra="cli", purpose="reading a trace")


def _fail(where: str, column: pl.Series, bad: NDArray[np.bool_], expected: str) -> None:
    """Raises for the first row that is bad."""
    rows = np.flatnonzero(bad)
    if rows.size:
        value = column[int(rows[0])]
        found = "empty" if value is None or value == "" else repr(value)
        raise IrouterError(f"{where}: row {rows[0] + 1}: `{column.name}` is {found}, expected {expected}")


def numbers(column: pl.Series, where: str, *, least: float, expected: str) -> NDArray[np.float64]:
    """The column as finite numbers of at least `least`."""
    pl = _polars()
    text = column.str.strip_chars() if column.dtype == pl.String else column
    plain = column.dtype == pl.String or column.dtype.is_numeric()
    values = (
        text.cast(pl.Float64, strict=False) if plain else pl.Series([None] * len(column), dtype=pl.Float64)
    )
    array: NDArray[np.float64] = values.fill_null(np.nan).to_numpy()
    _fail(where, column, ~(np.isfinite(array) & (array >= least)), expected)
    return array


def whole_numbers(
    column: pl.Series, where: str, *, least: int, what: str = "a whole number"
) -> NDArray[np.int64]:
    """The column as whole numbers of at least `least`."""
    expected = f"{what} of at least {least}"
    array = numbers(column, where, least=least, expected=expected)
    _fail(where, column, (array != np.floor(array)) | (np.abs(array) > _EXACT), expected)
    return array.astype(np.int64)


def arrivals(column: pl.Series, where: str, clock: Clock) -> NDArray[np.float64]:
    """The column as seconds, in order. Dates count from the first."""
    if clock == "date":
        seconds = _dates(column, where)
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


def _dates(column: pl.Series, where: str) -> NDArray[np.float64]:
    pl = _polars()
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
    _fail(where, column, times.is_null().to_numpy(), "a date and time such as 2023-11-16 18:15:46.68")
    nanoseconds: NDArray[np.int64] = times.cast(pl.Int64).to_numpy()
    seconds: NDArray[np.float64] = (nanoseconds - nanoseconds[0]) / 1e9
    return seconds


def codes(column: pl.Series, where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The column as numbers of its distinct values in order of appearance, and these values."""
    pl = _polars()
    _fail(where, column, column.is_null().to_numpy(), "a name or a number")
    text = column.cast(pl.String)
    names = text.unique(maintain_order=True)
    numbered = pl.DataFrame({"name": names, "code": np.arange(len(names), dtype=np.int64)})
    joined = pl.DataFrame({"name": text}).join(numbered, on="name", how="left", maintain_order="left")
    return joined["code"].to_numpy(), tuple(names.to_list())


def hashes(column: pl.Series, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A column of lists as offsets (one more than rows) and values, one after the other."""
    pl = _polars()
    expected = "a list of whole numbers"
    is_list = isinstance(column.dtype, pl.List) and (
        column.dtype.inner.is_integer() or column.dtype.inner == pl.Null
    )
    _fail(where, column, np.full(len(column), not is_list) | column.is_null().to_numpy(), expected)
    values = column.explode(empty_as_null=False)
    missing = column.list.eval(pl.element().is_null()).list.any().to_numpy()
    _fail(where, column, missing, expected)
    offsets = np.concatenate(([0], np.cumsum(column.list.len().to_numpy(), dtype=np.int64)))
    return offsets, values.cast(pl.Int64).to_numpy()
