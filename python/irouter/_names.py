"""Errors about names: what was given, and the nearest that exists."""

import difflib
from collections.abc import Iterable

from irouter._core import IrouterError


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` where a known name is near, else nothing."""
    known = list(known)
    folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return f"; did you mean `{folded[close[0]]}`?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str], listing: str) -> IrouterError:
    """The error for a name that does not exist.

    Args:
        kind: What was named, such as `policy`.
        name: The name that was given.
        known: The names that exist.
        listing: How to see them all, such as "`irouter policies` lists them".
    """
    return IrouterError(f"unknown {kind} `{name}`{nearest(name, known) or '; ' + listing}")
