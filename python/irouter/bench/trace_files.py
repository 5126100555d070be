"""Traces of a suite: found in a folder by the names under which they are published."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

from irouter._core import IrouterError
from irouter.evaluation.traces import read_trace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from irouter.bench.suite import Point
    from irouter.evaluation.traces import Trace

_SUFFIXES: Final = (".parquet", ".csv", ".jsonl", ".ndjson")


class TraceFolder:
    """Traces of a folder, each read once."""

    def __init__(self, folder: Path | None) -> None:
        if folder is not None and not folder.is_dir():
            raise IrouterError(f"--traces {folder}: no such folder")
        self._folder = folder
        self._read: dict[tuple[Path, float], Trace] = {}

    def find(self, point: Point) -> Trace | None:
        """The trace of a point, `None` where the folder has no file of that name."""
        path = self._path(point.trace_files)
        if path is None:
            return None
        key = (path, point.trace_from_s)
        if key not in self._read:
            trace = read_trace(path)
            self._read[key] = trace.since(point.trace_from_s) if point.trace_from_s else trace
        return self._read[key]

    def _path(self, stems: Sequence[str]) -> Path | None:
        if self._folder is None:
            return None
        candidates = (self._folder / f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES)
        return next((path for path in candidates if path.is_file()), None)


def trace_hash(trace: Trace) -> str:
    """SHA-256 of a trace's columns, whatever file they came from."""
    state = hashlib.sha256()
    for field in dataclasses.fields(trace):
        column = getattr(trace, field.name)
        if isinstance(column, np.ndarray):
            state.update(f"{field.name}:{column.dtype.name}:{len(column)};".encode())
            state.update(column.astype(column.dtype.newbyteorder("<")).tobytes())
    return state.hexdigest()
