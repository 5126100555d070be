"""Optional dependencies: found, or named with the command that installs them."""

import importlib
from types import ModuleType
from typing import Final

from irouter._core import IrouterError

INSTALL: Final = 'pip install "irouter-llm[{extra}]"'


class MissingExtraError(IrouterError):
    """A package of an optional extra is not installed."""


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Imports `module`.

    Args:
        module: Name of a module of the extra.
        extra: The extra that installs it.
        purpose: What it is needed for.

    Raises:
        MissingExtraError: When it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        message = f"{purpose} needs the package `{error.name}`: run {INSTALL.format(extra=extra)}"
        raise MissingExtraError(message) from error
