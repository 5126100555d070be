"""Latency profiles: the shipped ones by name, others by file."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from irouter._core import IrouterError, Profile
from irouter._names import unknown

__all__ = ["load", "names"]


def names() -> list[str]:
    """Names of the shipped profiles, such as `llama-3.1-8b@h100`."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))


def load(name: str | Path) -> dict[str, Any]:
    """A profile as a dictionary.

    Args:
        name: Name of a shipped profile, or a `.json` file.

    Raises:
        IrouterError: For an unknown name, or naming the bad field of a file.
    """
    if str(name).endswith(".json"):
        path = Path(name)
        if not path.is_file():
            raise IrouterError(f"no profile file {path}")
        where, text = path.name, path.read_text(encoding="utf-8")
    else:
        shipped = names()
        if name not in shipped:
            raise unknown(
                "profile", str(name), shipped, "`irouter profiles list` lists them; a file ends in .json"
            )
        where, text = str(name), (resources.files(__name__) / f"{name}.json").read_text(encoding="utf-8")
    try:
        Profile(text)
    except IrouterError as error:
        raise IrouterError(f"{where}: {error}") from error
    profile: dict[str, Any] = json.loads(text)
    return profile
