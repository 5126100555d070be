"""Tables from files. An error names the file and the row."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from irouter._core import IrouterError
from irouter._extras import require

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

_KINDS: Final = {".parquet": "Parquet", ".csv": "CSV", ".jsonl": "JSONL", ".ndjson": "JSONL"}


def read_table(path: Path, *, purpose: str) -> pl.DataFrame:
    """Reads a Parquet, CSV or JSONL file as it is, CSV as text.

    Args:
        path: The file.
        purpose: What it is read for, for the error without the extra.

    Raises:
        IrouterError: For a file that cannot be read, naming it and the row to blame.
    """
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise IrouterError(f"{path.name}: expected a file that ends in {', '.join(_KINDS)}")
    if not path.is_file():
        raise IrouterError(f"no file {path}")
    if path.stat().st_size == 0:
        raise IrouterError(f"{path.name}: the file is empty")
    polars = require("polars", extra="cli", purpose=purpose)
    try:
        frame: pl.DataFrame
        if kind == "Parquet":
            frame = polars.read_parquet(path)
        elif kind == "CSV":
            frame = polars.read_csv(path, infer_schema=False)
        else:
            frame = polars.read_ndjson(path, infer_schema_length=None)
    except polars.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise IrouterError(f"{path.name}: {_malformed_row(path, kind) or f'not {kind}: {reason}'}") from error
    return frame


def _malformed_row(path: Path, kind: str) -> str | None:
    """What is wrong with the first row that no reader can read, if a row is to blame."""
    if kind == "Parquet":
        return None
    with path.open(encoding="utf-8", errors="replace") as lines:
        if kind == "CSV":
            fields = next(lines).count(",") + 1
            for row, line in enumerate(lines, start=1):
                if line.count(",") + 1 > fields and '"' not in line:
                    return f"row {row}: {line.count(',') + 1} fields, expected {fields} as in the header"
            return None
        for row, line in enumerate(lines, start=1):
            problem = _malformed_json(line)
            if problem:
                return f"row {row}: {problem}"
    return None


def _malformed_json(line: str) -> str | None:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(line, parse_constant=refuse)
    except ValueError as error:
        return f"{error}: {line.strip()[:60]!r}"
    return None if isinstance(value, dict) else f"expected a JSON object, found {line.strip()[:60]!r}"
