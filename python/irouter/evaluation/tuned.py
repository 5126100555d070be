"""Tuned constants of policies: the shipped ones, and files that a search writes."""

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from irouter._core import IrouterError
from irouter._extras import require

SHIPPED: Final = "tuned.toml"
"""The file of the package, beside `irouter/__init__.py`."""


@functools.cache
def shipped() -> Mapping[str, Mapping[str, Any]]:
    """What the searches of the package found, by policy: `constants`, and how they were found."""
    return tomllib.loads(resources.files("irouter").joinpath(SHIPPED).read_text("utf-8"))


def constants_of(policy: str) -> Mapping[str, Any]:
    """Tuned constants of a policy; none for one that was never tuned."""
    constants: Mapping[str, Any] = shipped().get(policy, {}).get("constants", {})
    return constants


def write(path: Path, policy: str, entry: Mapping[str, Any]) -> None:
    """Sets the entry of one policy in a file of tuned constants, which need not exist.

    Raises:
        IrouterError: For a file that is no TOML, or without the extra `[cli]`.
    """
    toml = require("tomli_w", extra="cli", purpose="writing tuned constants")
    entries: dict[str, Any] = {}
    if path.exists():
        try:
            entries = tomllib.loads(path.read_text("utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise IrouterError(f"{path}: {error}; expected a file of tuned constants") from error
    entries[policy] = dict(entry)
    path.write_text(toml.dumps(dict(sorted(entries.items()))), "utf-8")
