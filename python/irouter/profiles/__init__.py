"""Latency profiles: the shipped ones by name, others by file."""

import json
from importlib import resources
from pathlib import Path
from typing import Any, Final

from irouter._core import IrouterError, Profile
from irouter._shipped import ShippedFiles

__all__ = ["check", "load", "names"]

_SHIPPED: Final = ShippedFiles("profile", resources.files(__name__), ".json")


def names() -> list[str]:
    """Names of the shipped profiles, such as `llama-3.1-8b@h100`."""
    return _SHIPPED.names()


def load(name: str | Path) -> dict[str, Any]:
    """A profile as a dictionary.

    Args:
        name: Name of a shipped profile, or a `.json` file.

    Raises:
        IrouterError: For an unknown name, or naming the bad field of a file.
    """
    file = _SHIPPED.read(name)
    try:
        Profile(file.text)
    except IrouterError as error:
        raise IrouterError(f"{file.where}: {error}") from error
    profile: dict[str, Any] = json.loads(file.text)
    return profile


def check(profile: dict[str, Any]) -> dict[str, Any]:
    """A profile that is a dictionary already.

    Raises:
        IrouterError: Naming the bad field.
    """
    Profile(json.dumps(profile))
    return profile
