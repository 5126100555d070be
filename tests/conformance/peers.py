"""The real packages, each in a virtual environment of its own at the root of the repository."""

import asyncio
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from conformance import gateways
from conformance.scripts import BLOCK_TOKENS, Event

ROOT = Path(__file__).resolve().parents[2]
DRIVERS = Path(__file__).parent / "drivers"
RUN_SECONDS = 600


class PeerError(Exception):
    """A driver failed."""


def environment(package: str) -> Path:
    """Where the package's virtual environment is, made by `make peers`."""
    return ROOT / f".venv-{package}"


def version(package: str) -> str:
    """The version that is pinned, and so installed."""
    distribution = {"dynamo": "ai-dynamo-runtime"}.get(package, package)
    for line in (ROOT / "requirements" / f"{package}.txt").read_text().splitlines():
        name, _, number = line.partition("==")
        if name.partition("[")[0] == distribution:
            return f"{distribution} {number}"
    raise PeerError(f"requirements/{package}.txt does not pin {distribution}")


@dataclass(frozen=True)
class Library:
    """A package that is called in a process of its own environment, through a driver script."""

    package: str
    driver: str
    header: dict[str, Any] = field(default_factory=dict)
    hears: frozenset[str] = frozenset({"submit", "first_token", "progress", "finished"})

    def run(self, instances: int, events: Sequence[Event]) -> tuple[Sequence[Event], list[list[int]]]:
        heard = [event for event in events if event["event"] in self.hears]
        header = {"instances": instances, "block_tokens": BLOCK_TOKENS, "seed": 1, **self.header}
        ended = subprocess.run(  # noqa: S603 - our own driver
            [environment(self.package) / "bin/python", DRIVERS / self.driver],
            input="".join(json.dumps(line) + "\n" for line in (header, *heard)),
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        if ended.returncode:
            raise PeerError(f"{self.driver} ended with {ended.returncode}: {ended.stderr}")
        # Answers are lists; libraries print warnings to standard output too.
        answers = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("[")]
        return heard, answers


@dataclass(frozen=True)
class Proxy:
    """A gateway in front of fake engines."""

    package: str
    policy: str
    arguments: Sequence[str] = ()
    tells_load: bool = True
    """Whether the engines have the page that the gateway polls."""

    def run(self, instances: int, events: Sequence[Event]) -> tuple[Sequence[Event], list[list[int]]]:
        told = [event for event in events if event["event"] in {"submit", "finished", "report", "polled"}]
        setup = gateways.Setup(
            self.package, environment(self.package), self.policy, instances, self.arguments, self.tells_load
        )
        drive = gateways.drive(setup, told)
        return asyncio.run(asyncio.wait_for(drive, RUN_SECONDS))


Peer: TypeAlias = Library | Proxy
"""A package under an event script: `run` returns what it came to know of the script, and its decisions."""
