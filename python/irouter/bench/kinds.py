"""Whose rule a policy of a benchmark is, and in which variant: what reports colour by."""

from __future__ import annotations

import enum

from irouter.bench.columns import QUEUES, rule
from irouter.evaluation.registry import registry


class Kind(enum.Enum):
    """A kind of policy, with how reports call it and its colour."""

    OWN = ("this project's", "#4269d0")
    PEER = ("another router's, as shipped", "#e0803b")
    EQUALISED = ("another router's, equalised", "#3a9d6e")
    QUEUED = ("behind the central queue", "#8c6bb1")
    PAPER = ("the paper's", "#b58900")
    COMMON = ("common knowledge", "#57606a")
    OTHER = ("not of the package", "#d1495b")

    def __init__(self, title: str, colour: str) -> None:
        self.title = title
        self.colour = colour


def kind(policy: str) -> Kind:
    """The kind of a policy, by its name."""
    if policy.startswith(tuple(f"{queue}:" for queue in QUEUES)):
        return Kind.QUEUED
    if policy.startswith("equalised:"):
        return Kind.EQUALISED
    info = registry().get(rule(policy))
    return Kind.OTHER if info is None else Kind[info.origin.upper()]
