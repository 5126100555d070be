"""Traces of requests, read from the formats that the field publishes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter._columns import numbers, whole_numbers
from irouter._core import IrouterError, Workload
from irouter._tables import read_table
from irouter.evaluation import trace_columns
from irouter.evaluation.trace_formats import TraceFormat, detect

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

HASH_BLOCK_TOKENS: Final = 512
"""Tokens of the prompt per entry of `hash_ids`, as Mooncake publishes them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival; row `i` of each column is request `i`.

    Attributes:
        name: Name of the trace: the file without its suffix.
        format: Format that it was read from.
        arrival_s: Arrivals in seconds.
        input_tokens: Tokens of each prompt.
        output_tokens: Tokens that each request produced.
        max_tokens: Most tokens that each request was allowed.
        application: Number of each request's class among `application_names`.
        application_names: Names of the classes.
        tenant: Number of each request's tenant among `tenant_names`.
        tenant_names: Names of the tenants.
        session: Number of each request's session.
        priority: Priority of each request; higher goes first.
        block_offsets: Where the prefix hashes of each request start, and the end of the last.
        block_hashes: Prefix hashes of all requests, each of `HASH_BLOCK_TOKENS` tokens.
        prompts: Texts of the requests; none where the file has none.
        predicted_quantiles: What a predictor said of the output lengths on reading the prompts, `[request, level]`.
        instance: Number of the instance that served each request among `instance_names`.
        instance_names: Names of the instances.
        held_s: Seconds from each arrival until the request was sent to its instance, as measured.
        ttft_s: Seconds from each arrival to the first token, as measured.
        e2e_s: Seconds from each arrival to the last token, as measured.
        dropped_empty: Rows without input or output that were left out.
    """

    name: str
    format: str
    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    max_tokens: NDArray[np.int64] | None = None
    application: NDArray[np.int64] | None = None
    application_names: tuple[str, ...] = ()
    tenant: NDArray[np.int64] | None = None
    tenant_names: tuple[str, ...] = ()
    session: NDArray[np.int64] | None = None
    priority: NDArray[np.int32] | None = None
    block_offsets: NDArray[np.int64] | None = None
    block_hashes: NDArray[np.int64] | None = None
    prompts: tuple[str, ...] = ()
    predicted_quantiles: NDArray[np.float64] | None = None
    instance: NDArray[np.int64] | None = None
    instance_names: tuple[str, ...] = ()
    held_s: NDArray[np.float64] | None = None
    ttft_s: NDArray[np.float64] | None = None
    e2e_s: NDArray[np.float64] | None = None
    dropped_empty: int = 0

    def __len__(self) -> int:
        return len(self.arrival_s)

    def since(self, start_s: float) -> Trace:
        """The requests that arrive at or after `start_s`, with the first of them at 0.

        Raises:
            IrouterError: When none does.
        """
        first = int(np.searchsorted(self.arrival_s, start_s))
        if first == len(self):
            raise IrouterError(f"the trace `{self.name}` has no request at or after {start_s:g} s")
        rest = self._rows(first, len(self))
        return dataclasses.replace(rest, arrival_s=rest.arrival_s - rest.arrival_s[0])

    def until(self, end_s: float) -> Trace:
        """The requests that arrive before `end_s`.

        Raises:
            IrouterError: When none does.
        """
        end = int(np.searchsorted(self.arrival_s, end_s))
        if end == 0:
            raise IrouterError(f"the trace `{self.name}` has no request before {end_s:g} s")
        return self._rows(0, end)

    def _rows(self, first: int, end: int) -> Trace:
        columns: dict[str, Any] = {
            field.name: column[first:end]
            for field in dataclasses.fields(self)
            if isinstance(column := getattr(self, field.name), np.ndarray)
        }
        columns["prompts"] = self.prompts[first:end]
        if self.block_offsets is not None and self.block_hashes is not None:
            start, stop = self.block_offsets[first], self.block_offsets[end]
            columns["block_offsets"] = self.block_offsets[first : end + 1] - start
            columns["block_hashes"] = self.block_hashes[start:stop]
        return dataclasses.replace(self, **columns)

    def with_predictions(self, folder: str) -> Trace:
        """The same, with what a trained predictor says of each request; see `predicted_quantiles`.

        The predictor is told the request's class as its application and as its task.

        Args:
            folder: Folder of the predictor.

        Raises:
            IrouterError: For a trace without texts, or a folder that is no predictor's.
        """
        from irouter import prediction  # noqa: PLC0415 - for those who replay texts only

        if not self.prompts:
            raise IrouterError(
                f"the trace `{self.name}` has no column `prompt`, which `model:{folder}` reads"
            )
        names: list[str | None] = [None] * len(self)
        if self.application is not None:
            names = [self.application_names[number] for number in self.application]
        predictor = prediction.load(folder)
        lengths = predictor.predict(self.prompts, tasks=names, apps=names)
        return dataclasses.replace(self, predicted_quantiles=lengths.quantiles)

    def workload(self) -> Workload:
        """The trace as the simulator takes it."""
        return Workload(
            self.arrival_s,
            self.input_tokens,
            self.output_tokens,
            max_tokens=self.max_tokens,
            application=self.application,
            tenant=self.tenant,
            session=self.session,
            priority=self.priority,
            block_offsets=self.block_offsets,
            block_hashes=self.block_hashes,
            hash_block_tokens=None if self.block_hashes is None else HASH_BLOCK_TOKENS,
            predicted_quantiles=self.predicted_quantiles,
        )


def read_trace(path: str | Path, *, drop_empty: bool = False) -> Trace:
    """Reads a trace.

    The format follows from the columns: `arrival_s, input_tokens, output_tokens` (Parquet, CSV, JSONL; optionally
    `max_tokens, application, tenant, session, priority, hash_ids, prompt`), Azure (`TIMESTAMP, ContextTokens,
    GeneratedTokens`), Mooncake (`timestamp` in ms, `input_length, output_length, hash_ids`), BurstGPT (`Timestamp,
    Request tokens, Response tokens, Model`), ServeGen (`client_id` beside the first three) or a gateway's log
    (`timestamp` in seconds or as a date, `prompt_tokens, output_tokens`; optionally `app, tenant, session, priority,
    max_tokens, prompt` and what was measured: `instance, held_seconds, ttft_seconds, e2e_seconds`).

    Args:
        path: A `.parquet`, `.csv`, `.jsonl` or `.ndjson` file.
        drop_empty: Leave out rows without input or output (failed requests of BurstGPT), and count them.

    Raises:
        IrouterError: Naming the file, the row (counted from 1 below the header) and the field.
    """
    path = Path(path)
    frame = read_table(path, purpose="reading a trace")
    where = path.name
    if frame.height == 0:
        raise IrouterError(f"{where}: the trace has no requests")
    form = detect(frame.columns, where)
    arrival_s = trace_columns.arrivals(frame[form.arrival], where, form.clock)
    least = 0 if drop_empty else 1
    what = "a whole number of tokens"
    input_tokens = whole_numbers(frame[form.input_tokens], where, least=least, what=what)
    output_tokens = whole_numbers(frame[form.output_tokens], where, least=least, what=what)
    keep = (input_tokens > 0) & (output_tokens > 0)
    if not keep.any():
        raise IrouterError(f"{where}: every request is without input or output")
    # On all rows first, so that an error names the row of the file.
    columns = _optional_columns(frame, form, where)
    if not keep.all():
        columns = _optional_columns(frame.filter(keep), form, where)
    return Trace(
        name=path.stem,
        format=form.name,
        arrival_s=arrival_s[keep],
        input_tokens=input_tokens[keep],
        output_tokens=output_tokens[keep],
        dropped_empty=int((~keep).sum()),
        **columns,
    )


def _optional_columns(frame: pl.DataFrame, form: TraceFormat, where: str) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for field, name in form.optional.items():
        if name not in frame.columns:
            continue
        column = frame[name]
        if field in {"application", "tenant", "instance"}:
            columns[field], columns[f"{field}_names"] = trace_columns.codes(column, where)
        elif field == "session":
            columns[field], _ = trace_columns.codes(column, where)
        elif field == "hash_ids":
            columns["block_offsets"], columns["block_hashes"] = trace_columns.hashes(column, where)
        elif field == "prompt":
            columns["prompts"] = trace_columns.texts(column, where)
        elif field in {"held_s", "ttft_s", "e2e_s"}:
            columns[field] = numbers(column, where, least=0.0, expected="a number of seconds, zero or more")
        elif field == "priority":
            priority = whole_numbers(column, where, least=-(2**31))
            columns[field] = priority.astype("int32")
        else:
            columns[field] = whole_numbers(column, where, least=1)
    return columns
