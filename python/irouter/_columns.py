"""Columns of a table as checked NumPy arrays. An error names the file, the row and the field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from irouter._core import IrouterError
from irouter._extras import require

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

# Within this a float holds every whole number.
_EXACT: Final = 2.0**53


def refuse(where: str, column: pl.Series, bad: NDArray[np.bool_], expected: str) -> None:
    """Raises for the first row that is bad."""
    rows = np.flatnonzero(bad)
    if rows.size:
        value = column[int(rows[0])]
        found = "empty" if value is None or value == "" else repr(value)
        raise IrouterError(f"{where}: row {rows[0] + 1}: `{column.name}` is {found}, expected {expected}")


def numbers(column: pl.Series, where: str, *, least: float, expected: str) -> NDArray[np.float64]:
    """The column as finite numbers of at least `least`."""
    pl = require("polars", extra="cli", purpose="reading a file")
    text = column.str.strip_chars() if column.dtype == pl.String else column
    plain = column.dtype == pl.String or column.dtype.is_numeric()
    values = (
        text.cast(pl.Float64, strict=False) if plain else pl.Series([None] * len(column), dtype=pl.Float64)
    )
    array: NDArray[np.float64] = values.fill_null(np.nan).to_numpy()
    refuse(where, column, ~(np.isfinite(array) & (array >= least)), expected)
    return array


def whole_numbers(
    column: pl.Series, where: str, *, least: int, what: str = "a whole number"
) -> NDArray[np.int64]:
    """The column as whole numbers of at least `least`."""
    expected = f"{what} of at least {least}"
    array = numbers(column, where, least=least, expected=expected)
    refuse(where, column, (array != np.floor(array)) | (np.abs(array) > _EXACT), expected)
    return array.astype(np.int64)
