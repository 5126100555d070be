"""The result of a run: its format, and the digest over all its figures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from irouter._core import IrouterError
from irouter._extras import require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT: Final = "irouter-bench-result-1"
"""Name and version of the format."""

# How fast a machine was is no figure of a policy.
_OUTSIDE_THE_DIGEST: Final = ("digest", "speed")


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """Figures of policies at the points of a suite, as `docs/bench-result.schema.json` describes them.

    Attributes:
        data: The result as plain data.
    """

    data: Mapping[str, Any]

    @property
    def suite(self) -> str:
        """Name of the suite."""
        return str(self.data["suite"])

    @property
    def points(self) -> dict[str, Mapping[str, Any]]:
        """The points that ran, by name."""
        return {point["name"]: point for point in self.data["points"]}

    @property
    def capacity(self) -> dict[str, Mapping[str, Any]]:
        """The capacities that were searched, by name."""
        return {point["name"]: point for point in self.data["capacity"]}

    @property
    def entries(self) -> dict[str, Mapping[str, Any]]:
        """Points and capacities, by name."""
        return {**self.points, **self.capacity}

    def digest(self) -> str:
        """SHA-256 over everything but the speed of the machine, as canonical JSON."""
        content = {key: value for key, value in self.data.items() if key not in _OUTSIDE_THE_DIGEST}
        return hashlib.sha256(_canonical(content).encode()).hexdigest()

    def to_json(self) -> str:
        """The result as canonical JSON."""
        return _canonical(self.data) + "\n"

    def write(self, path: str | Path) -> None:
        """Writes the result as JSON."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    def write_html(self, path: str | Path) -> None:
        """Writes the report as one page with plots that needs nothing else, not even a network.

        Raises:
            IrouterError: Without the extra `[cli]`.
        """
        require("plotly", extra="cli", purpose="the HTML report")
        from irouter.bench import report  # noqa: PLC0415 - needs the extra [cli]

        Path(path).write_text(report.page(self), encoding="utf-8")


def sealed(data: Mapping[str, Any]) -> Result:
    """The result with its digest."""
    return Result({**data, "digest": Result(data).digest()})


def read(path: str | Path) -> Result:
    """Reads a result and checks it against the schema.

    Raises:
        IrouterError: For a file that is no result, naming the first bad value.
    """
    path = Path(path)
    if not path.is_file():
        raise IrouterError(f"no file {path}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IrouterError(f"{path.name}: not JSON: {error}") from error
    problems = schema_problems(data)
    if problems:
        raise IrouterError(f"{path.name}: {problems[0]}")
    return Result(data)


def schema() -> dict[str, Any]:
    """The JSON Schema of a result."""
    text = (resources.files(__package__) / "result.schema.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def schema_problems(data: object) -> Sequence[str]:
    """What of `data` is not as the schema says, each with where it is.

    Raises:
        IrouterError: Without the extra `[cli]`.
    """
    jsonschema = require("jsonschema", extra="cli", purpose="reading a result")
    errors = jsonschema.Draft202012Validator(schema()).iter_errors(data)
    return [f"{error.json_path}: {error.message[:200]}" for error in errors]


def _canonical(data: object) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
