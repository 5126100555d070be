"""The trace formats that the field publishes, told apart by their columns."""

import dataclasses
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final, Literal

from irouter._core import IrouterError
from irouter._names import nearest

Clock = Literal["seconds", "milliseconds", "date", "seconds or date"]


@dataclasses.dataclass(frozen=True, slots=True)
class TraceFormat:
    """Where a format keeps what a trace needs.

    Attributes:
        name: Name of the format.
        arrival: Column of the arrivals.
        clock: How arrivals are written.
        input_tokens: Column of the prompt lengths.
        output_tokens: Column of the output lengths.
        optional: Columns that a file may have, by the field of a trace that they fill.
    """

    name: str
    arrival: str
    clock: Clock
    input_tokens: str
    output_tokens: str
    optional: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))

    @property
    def required(self) -> tuple[str, str, str]:
        """The columns that tell this format."""
        return self.arrival, self.input_tokens, self.output_tokens


FORMATS: Final = (
    TraceFormat(
        name="irouter",
        arrival="arrival_s",
        clock="seconds",
        input_tokens="input_tokens",
        output_tokens="output_tokens",
        optional={
            "max_tokens": "max_tokens",
            "application": "application",
            "tenant": "tenant",
            "session": "session",
            "priority": "priority",
            "hash_ids": "hash_ids",
            "prompt": "prompt",
            "instance": "instance",
            "held_s": "held_s",
            "ttft_s": "ttft_s",
            "e2e_s": "e2e_s",
        },
    ),
    # ServeGen: the client is the only class that is known of a request.
    TraceFormat(
        name="servegen",
        arrival="arrival_s",
        clock="seconds",
        input_tokens="input_tokens",
        output_tokens="output_tokens",
        optional={"application": "client_id"},
    ),
    TraceFormat("azure", "TIMESTAMP", "date", "ContextTokens", "GeneratedTokens"),
    # Also what `vllm bench serve` and other load generators replay as a timed trace.
    TraceFormat(
        name="mooncake",
        arrival="timestamp",
        clock="milliseconds",
        input_tokens="input_length",
        output_tokens="output_length",
        optional={"hash_ids": "hash_ids"},
    ),
    TraceFormat(
        name="burstgpt",
        arrival="Timestamp",
        clock="seconds",
        input_tokens="Request tokens",
        output_tokens="Response tokens",
        optional={"application": "Model"},
    ),
    # What gateways log of each request, and what of it was measured.
    TraceFormat(
        name="request-log",
        arrival="timestamp",
        clock="seconds or date",
        input_tokens="prompt_tokens",
        output_tokens="output_tokens",
        optional={
            "max_tokens": "max_tokens",
            "application": "app",
            "tenant": "tenant",
            "session": "session",
            "priority": "priority",
            "prompt": "prompt",
            "instance": "instance",
            "held_s": "held_seconds",
            "ttft_s": "ttft_seconds",
            "e2e_s": "e2e_seconds",
        },
    ),
)


def detect(columns: Collection[str], where: str) -> TraceFormat:
    """The format of a file with these columns.

    Args:
        columns: Names of the file's columns.
        where: The file, for errors.

    Raises:
        IrouterError: Naming the missing column and the nearest that the file has.
    """

    def found(candidate: TraceFormat) -> tuple[int, int]:
        optional = sum(column in columns for column in candidate.optional.values())
        return sum(column in columns for column in candidate.required), optional

    best = max(FORMATS, key=found)
    missing = [column for column in best.required if column not in columns]
    if not missing:
        return best
    if len(missing) == len(best.required):
        listing = "; ".join(
            f"{known.name}: {', '.join(known.required)}" for known in FORMATS if known.name != "servegen"
        )
        message = f"{where}: no known trace format has the columns {', '.join(columns) or '(none)'}; expected {listing}"
        raise IrouterError(message)
    others = [column for column in columns if column not in best.required]
    hint = nearest(missing[0], others) or f"; the file has {', '.join(columns)}"
    raise IrouterError(f"{where}: no column `{missing[0]}` of the format `{best.name}`{hint}")
