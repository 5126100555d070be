"""The paper's three agents (Jain et al., arXiv 2408.13510): trained, kept as files, and as policies."""

from __future__ import annotations

import base64
import dataclasses
from typing import TYPE_CHECKING, Any, Final

import irouter
from irouter._names import unknown
from irouter.evaluation.policies import PolicyChoice

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from irouter.evaluation import Settings
    from irouter.training.double_dqn import Args, Episode, Guidance

VARIANTS: Final[dict[str, Guidance]] = {
    "baseline": "none",
    "workload-aware": "constant",
    "workload-guided": "fading",
}
"""The agents, and how each is guided by the latency impact of its placements."""

# Seeds on which a network is judged while it is trained: neither trained on nor reported.
_VALIDATION: Final[Settings] = {"first_seed": 2_000_000, "seeds": 4}

_JUDGED_EVERY: Final = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Trained:
    """An agent after training.

    Attributes:
        weights: Its file of weights: the network that was best in validation.
        episode: The episode after which it was.
        ratio: Its mean E2E over that of round robin, in validation.
    """

    weights: bytes
    episode: int
    ratio: float


def label(variant: str) -> str:
    """What reports call an agent."""
    return f"agent:{variant}"


def file_of(folder: Path, scenario: str, variant: str) -> Path:
    """Where the weights of an agent are kept."""
    return folder / f"{scenario}.{variant}.safetensors"


def choice(name: str, weights: bytes) -> PolicyChoice:
    """Weights as a policy to compare, under a name of its own."""
    return PolicyChoice("paper_agent", {"weights": base64.b64encode(weights).decode()}, as_label=name)


def found(folder: Path, scenario: str) -> list[PolicyChoice]:
    """The agents in `folder` that were trained for the scenario, as policies to compare."""
    files = {variant: file_of(folder, scenario, variant) for variant in VARIANTS}
    return [choice(label(variant), file.read_bytes()) for variant, file in files.items() if file.is_file()]


def train(
    args: Args,
    *,
    better: Callable[[Trained], None] | None = None,
    log: Callable[[str], None] | None = None,
) -> Trained:
    """Trains an agent; its network is judged after every second episode.

    Args:
        args: What training depends on.
        better: Called whenever a network is better than all before it.
        log: Called with a line for each episode.
    """
    from irouter.training import double_dqn  # noqa: PLC0415 - torch is there when something is trained

    best = Trained(b"", 0, float("inf"))

    def judge(episode: Episode, network: Any) -> None:
        nonlocal best
        line = (
            f"episode {episode.number}: {episode.seconds:.0f} s, {episode.decisions} decisions, "
            f"{100 * episode.holds:.0f} % holds, loss {episode.loss:.4f}"
        )
        if episode.number == args.episodes or episode.number % _JUDGED_EVERY == 0:
            weights = double_dqn.weights(network, args)
            ratio = _validate(args, weights)
            line += f", mean E2E {ratio:.3f} of round robin"
            if ratio < best.ratio:
                best = Trained(weights, episode.number, ratio)
                if better is not None:
                    better(best)
        if log is not None:
            log(line)

    double_dqn.train(args, report=judge)
    return best


def _validate(args: Args, weights: bytes) -> float:
    """Mean E2E over that of round robin, on seeds that are neither trained on nor reported."""
    from irouter.training.double_dqn import LONGEST_HOLD_S  # noqa: PLC0415 - torch is there when something is trained

    settings: Settings = {
        **_VALIDATION,
        "policies": [choice("agent", weights)],
        "max_hold_s": LONGEST_HOLD_S,
    }
    if args.requests is not None:
        settings["requests"] = args.requests
    comparison = irouter.compare(args.scenario, threads=1, **settings)
    return float(comparison.policies["agent"]["ratio"]["e2e_mean_s"][0])


def train_file(
    variant: str, folder: Path, *, log: Callable[[str], None] | None = None, **changes: Any
) -> tuple[Trained, Path]:
    """Trains an agent into the file that `irouter reproduce paper --agents FOLDER` looks for.

    The file is there from the first network on that was judged, and always has the best so far.

    Args:
        variant: Which agent: a name of `VARIANTS`.
        folder: Folder of the file; it is made where there is none.
        log: Called with a line for each episode.
        changes: Fields of :class:`irouter.training.double_dqn.Args` that differ.

    Raises:
        IrouterError: For an unknown agent or scenario.
        MissingExtraError: Without the extra `[train]`.
    """
    from irouter.training import double_dqn  # noqa: PLC0415 - torch is there when something is trained

    if variant not in VARIANTS:
        raise unknown("agent", variant, VARIANTS, f"known are {', '.join(VARIANTS)}")
    args = double_dqn.Args(**{**changes, "guidance": VARIANTS[variant]})
    file = file_of(folder, args.scenario, variant)
    file.parent.mkdir(parents=True, exist_ok=True)

    def keep(trained: Trained) -> None:
        file.write_bytes(trained.weights)

    return train(args, better=keep, log=log), file
