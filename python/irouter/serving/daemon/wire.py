"""The daemon's protocol: JSON arrays, one a line, over a Unix stream socket. `docs/daemon.md` lists them."""

from __future__ import annotations

import json
from typing import Any, Final

from irouter._core import IrouterError
from irouter.serving.errors import (
    ClosedError,
    DeadlineError,
    DisconnectedError,
    NoInstanceError,
    QueueFullError,
)

PROTOCOL: Final = 1
# A request of a million prompt tokens has 62,500 block hashes of up to 20 digits.
LONGEST_LINE_BYTES: Final = 16 << 20
# Who does not read so much is not there any more.
MOST_UNREAD_BYTES: Final = 64 << 20

_ERRORS: Final = {
    kind.__name__: kind
    for kind in (ClosedError, DeadlineError, DisconnectedError, NoInstanceError, QueueFullError, IrouterError)
}
_encoder: Final = json.JSONEncoder(separators=(",", ":"), default=lambda value: value.tolist())

Message = list[Any]


class WireError(IrouterError):
    """What came is not of the protocol."""


def encode(message: Message) -> bytes:
    """A line."""
    return _encoder.encode(message).encode() + b"\n"


class Lines:
    """Puts messages together from bytes, however they are cut."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes.

        Raises:
            WireError: For a line that is too long or no JSON array that begins with a name.
        """
        *lines, rest = data.split(b"\n")
        self._length += len(data)
        messages = []
        if lines:
            lines[0] = b"".join([*self._parts, lines[0]])
            self._parts, self._length = [], len(rest)
            messages = [_decoded(line) for line in lines]
        self._parts.append(rest)
        if self._length > LONGEST_LINE_BYTES:
            raise WireError(f"a line has {self._length} bytes, expected at most {LONGEST_LINE_BYTES}")
        return messages


def _decoded(line: bytes) -> Message:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not (isinstance(message, list) and message and isinstance(message[0], str)):
        raise WireError(f"a line is {line!r:.60}, expected a JSON array that begins with a name")
    return message


def name_of(error: Exception) -> str:
    """The name that an error has on the wire: of its class, where both sides know it."""
    name = type(error).__name__
    return name if name in _ERRORS else IrouterError.__name__


def error_of(name: str, text: str) -> IrouterError:
    """The error behind a name."""
    return _ERRORS.get(name, IrouterError)(text)
