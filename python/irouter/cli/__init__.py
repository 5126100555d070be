"""The command `irouter`."""

import os
import sys
from collections.abc import Sequence

from irouter._core import IrouterError
from irouter._extras import require

BAD_INPUT = 2
INTERRUPTED = 130
CLOSED_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Exits with 2 and one line on standard error for bad input or a missing extra.

    Args:
        arguments: Arguments in place of those of the process.
    """
    try:
        for package in ("typer", "rich", "polars"):
            require(package, extra="cli", purpose="the irouter command")
        from irouter.cli.app import app  # noqa: PLC0415 - needs the extra [cli]

        app(args=None if arguments is None else list(arguments), prog_name="irouter")
    except IrouterError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - Rich may be what is missing
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Who read the output has seen enough; without this the interpreter would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CLOSED_PIPE)
