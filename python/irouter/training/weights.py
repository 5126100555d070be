"""Weights of `guided`: what they start as, and the file that they are kept in."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter import _core
from irouter._core import IrouterError
from irouter._extras import require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

OUTPUTS: Final = ("value", "room")
"""What the network says of a pair: what dispatching it is worth, and whether there is room for it."""

RULE: Final[Mapping[str, Mapping[str, float]]] = {
    "value": {
        "size": -1.0,
        "patience_squared": 4.0,
        "due_squared": 16.0,
        "seniority": 0.4,
        "spread": 0.11,
        "prompt_share": -0.21,
        "overflow_over_least": -0.24,
        "cache_share": -0.43,
        "inflicted_over_least": -2.0,
        "e2e_over_least": -2.0,
        "stall_over_least": -48.0,
        "start_squared": -4.0,
    },
    "room": {
        "bias": -2.85,
        "overflow": -1.0,
        "overflow_before": -0.32,
        "prefill": -5.0,
        "slots_beyond": -1.7,
        "size": -0.3,
        "patience_squared": 0.88,
        "longest_patience": 0.16,
        "spread": 0.12,
        "prompt_share": 0.76,
        "waiting": -0.19,
        "cache_share": 1.13,
    },
}
"""The rule that training starts from, and the guidance that fades: the smallest first, before them those who would end
late, where they take and inflict the least, while few prompt tokens are still to be computed there and the forecast
peak stays about three standard deviations below the KV cache. Weights that are not named are zero. The form is by hand,
and so are the round numbers; the others are of a short search on training windows of `paper-main` and of drawn
workloads."""

_SPREAD: Final[Mapping[str, float]] = {
    "lateness": 0.5,
    "lateness_squared": 0.5,
    "patience": 0.5,
    "patience_squared": 0.2,
    "due": 0.5,
    "due_squared": 0.3,
    "due_in_crowd": 0.5,
    "due_in_crowd_squared": 0.3,
    "due_at_worst": 0.5,
    "due_at_worst_squared": 0.3,
    "seniority": 0.4,
    "spread": 0.3,
    "prompt_share": 0.3,
    "longest_patience": 0.5,
    "overflow": 2.0,
    "overflow_before": 2.0,
    "overflow_likely": 0.5,
    "cache_share": 0.1,
    "slots": 0.3,
    "in_flight_over_least": 0.2,
    "work_over_least": 0.2,
    "prefill": 0.3,
    "prefill_over_least": 0.3,
    "uncached_over_least": 0.3,
    "delay": 0.3,
    "delay_over_least": 0.2,
    "slowness": 0.1,
    "inflicted_over_least": 0.5,
    "e2e_over_least": 0.5,
    "stall_over_least": 0.05,
    "start_squared": 0.5,
}
# Features whose spread is not named differ by about 1 between pairs.


def features() -> tuple[int, tuple[str, ...]]:
    """Version of the observation, and the names of its features."""
    observation = json.loads(_core.observation())
    return observation["version"], tuple(observation["features"])


def start(hidden: Sequence[int], seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights of :data:`RULE` in a network with hidden layers of these sizes.

    Tensors are named as in a PyTorch `Sequential` with ReLU between its layers. The rule is linear; a network
    with hidden layers carries it through pairs of units, since `x = max(0, x) - max(0, -x)`.

    Args:
        hidden: Sizes of the hidden layers, none or one.
        seed: Seed of the first layer of the other units.

    Raises:
        IrouterError: For more than one hidden layer, or one too small for the rule.
    """
    _, names = features()
    rule = np.zeros((len(OUTPUTS), len(names)), np.float32)
    bias = np.zeros(len(OUTPUTS), np.float32)
    for row, output in enumerate(OUTPUTS):
        for name, weight in RULE[output].items():
            if name == "bias":
                bias[row] = weight
            else:
                rule[row, names.index(name)] = weight
    if not hidden:
        return {"network.0.weight": rule, "network.0.bias": bias}
    carriers = 2 * len(OUTPUTS)
    if len(hidden) > 1 or hidden[0] < carriers:
        raise IrouterError(f"hidden layers {list(hidden)}: expected one of at least {carriers} units")
    others = hidden[0] - carriers
    drawn = np.random.default_rng(seed).normal(0.0, 1.0 / np.sqrt(len(names)), (others, len(names)))
    second = np.zeros((len(OUTPUTS), hidden[0]), np.float32)
    for row in range(len(OUTPUTS)):
        second[row, [row, len(OUTPUTS) + row]] = 1.0, -1.0
    return {
        "network.0.weight": np.concatenate([rule, -rule, drawn.astype(np.float32)]),
        "network.0.bias": np.zeros(hidden[0], np.float32),
        "network.2.weight": second,
        "network.2.bias": bias,
    }


def to_bytes(tensors: Mapping[str, NDArray[np.float32]], header: Mapping[str, Any]) -> bytes:
    """A file of weights: safetensors, with the header as JSON in its metadata.

    Raises:
        MissingExtraError: Without the extra `[train]`.
    """
    safetensors = require("safetensors.numpy", extra="train", purpose="writing weights")
    version, names = features()
    content = {"observation_version": version, "features": names, **header}
    written: bytes = safetensors.save(dict(tensors), {"irouter": json.dumps(content)})
    return written


def read(path: Path) -> dict[str, NDArray[np.float32]]:
    """The tensors in a file of weights; the router checks the rest when they are used.

    Raises:
        IrouterError: For a file that cannot be read.
        MissingExtraError: Without the extra `[train]`.
    """
    safetensors = require("safetensors", extra="train", purpose="reading weights")
    numpy = require("safetensors.numpy", extra="train", purpose="reading weights")
    try:
        tensors: dict[str, NDArray[np.float32]] = numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise IrouterError(f"{path}: {error}; expected a file of weights") from error
    return tensors


def shipped() -> dict[str, NDArray[np.float32]]:
    """The weights of the package.

    Raises:
        MissingExtraError: Without the extra `[train]`.
    """
    numpy = require("safetensors.numpy", extra="train", purpose="reading weights")
    tensors: dict[str, NDArray[np.float32]] = numpy.load(_core.guided_weights())
    return tensors


def to_option(tensors: Mapping[str, NDArray[np.float32]]) -> str:
    """The option `weights` of `guided` with these tensors."""
    return base64.b64encode(to_bytes(tensors, {})).decode()


def flat(tensors: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """All numbers in one row, tensors by name."""
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)]).astype(np.float64)


def unflat(
    row: NDArray[np.float64], like: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Tensors of the shapes of `like` from such a row."""
    names = sorted(like)
    ends = np.cumsum([like[name].size for name in names])
    parts = np.split(row.astype(np.float32), ends[:-1])
    return {name: part.reshape(like[name].shape) for name, part in zip(names, parts, strict=True)}


def steps(like: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """How far to step in each of the numbers of :func:`flat` for about the same effect on the outputs."""
    _, names = features()
    of_features = np.array([1.0 / _SPREAD.get(name, 1.0) for name in names], np.float32)
    sizes = {name: np.ones_like(tensor) for name, tensor in like.items()}
    sizes["network.0.weight"] *= of_features
    return flat(sizes)


def digest(tensors: Mapping[str, NDArray[np.float32]]) -> str:
    """A short name of these weights, the same for the same numbers."""
    return hashlib.sha256(flat(tensors).tobytes()).hexdigest()[:16]
