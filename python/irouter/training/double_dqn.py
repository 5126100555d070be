"""Double DQN (van Hasselt et al., 2016) on the routing environment: one file, from top to bottom.

The same arguments give the same weights on one machine and one version of PyTorch.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from irouter import _core
from irouter._extras import require
from irouter.training.environment import RoutingEnv

require("torch", extra="train", purpose="training")

import safetensors.torch  # noqa: E402 - after the extra is known to be there
import torch  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Numbers: TypeAlias = NDArray[np.float32]

Guidance: TypeAlias = Literal["none", "constant", "fading"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Args:
    """Everything that training depends on.

    Attributes:
        scenario: The scenario that the agent is trained on.
        requests: Requests of an episode, in place of the scenario's.
        guidance: `none`; `constant`: the gap to the least impact is a term of the reward; `fading`: its weight is
            `discount e^(-fading k)` in episode `k` = 1, 2, ..., in which the future counts
            `discount (1 - e^(-fading k))` per tick.
        fading: See there; the paper's beta.
        tick_s: Seconds between decisions, the paper's.
        hidden: Widths of the hidden layers, the paper's.
        batch: Transitions of a gradient step, the paper's.
        exploring_episodes: Episodes in which actions are explored, the paper's; no more than two thirds of all.
        first_exploration: Share of random actions in the first of them; it falls evenly, episode by episode.
        last_exploration: The same in the last of them; afterwards there is none.
        episodes: Episodes in all.
        discount: Weight of the future per tick.
        learning_rate: Of Adam, in the first episode.
        last_learning_rate: The same in the last; it falls evenly, episode by episode.
        replay: Transitions that are kept.
        warm_up: Transitions before the first gradient step.
        train_every: Transitions for each gradient step.
        target_every: Gradient steps after which the target network becomes the one that is trained.
        reward_scale: What rewards are divided by.
        exchange_instances: Whether instances change places at random in what a batch shows: they are alike, and what is
            learned of one holds for all.
        largest_gradient: Norm to which gradients are cut.
        seed: Of the weights, the exploration and the batches; episodes run the seeds from `first_episode` on.
        first_episode: Seed of the first episode.
    """

    scenario: str = "paper-main"
    requests: int | None = None
    guidance: Guidance = "fading"
    fading: float = 0.5
    tick_s: float = 0.02
    hidden: tuple[int, ...] = (64, 64)
    batch: int = 512
    exploring_episodes: int = 20
    first_exploration: float = 1.0
    last_exploration: float = 0.05
    episodes: int = 30
    discount: float = 0.99
    learning_rate: float = 1e-3
    last_learning_rate: float = 1e-5
    replay: int = 100_000
    warm_up: int = 2_000
    train_every: int = 2
    target_every: int = 500
    reward_scale: float = 1000.0
    exchange_instances: bool = True
    largest_gradient: float = 10.0
    seed: int = 0
    first_episode: int = 1_000_000

    def exploration(self, episode: int) -> float:
        """Share of random actions in episode 1, 2, ..."""
        exploring = min(self.exploring_episodes, round(2 * self.episodes / 3))
        if episode > exploring:
            return 0.0
        passed = (episode - 1) / max(exploring - 1, 1)
        return self.first_exploration + passed * (self.last_exploration - self.first_exploration)

    def rate(self, episode: int) -> float:
        """Learning rate in episode 1, 2, ..."""
        passed = (episode - 1) / max(self.episodes - 1, 1)
        return self.learning_rate + passed * (self.last_learning_rate - self.learning_rate)

    def guide(self, episode: int) -> tuple[float, float]:
        """Weight of the guidance, and of the future per tick, in episode 1, 2, ..."""
        if self.guidance == "fading":
            share = math.exp(-self.fading * episode)
            return self.discount * share, self.discount * (1.0 - share)
        return float(self.guidance == "constant"), self.discount


LONGEST_HOLD_S = 600.0
"""A request held for longer goes out: an agent that never sends anything would never come to an end."""

SCALES = {
    "queue_requests": 64.0,
    "head_prompt_tokens": 256.0,
    "head_bucket": 1.0,
    "requests": 32.0,
    "free_capacity": 1.0,
    "earliest_completion_s": 4.0,
}
"""What numbers are divided by on their way into the network, by the end of their name or all of it."""

_OF_QUEUE = 3
"""How many numbers are about the queue; they come first, then as many about each instance."""


@dataclasses.dataclass(frozen=True, slots=True)
class Episode:
    """How an episode of training went.

    Attributes:
        number: 1, 2, ...
        decisions: Decisions in it at which there was a choice: where an instance was open.
        seconds: How long it took in simulated time, from the first request to the end of the last.
        holds: Share of these decisions that held.
        loss: Mean loss of its gradient steps; NaN without one.
    """

    number: int
    decisions: int
    seconds: float
    holds: float
    loss: float


class Replay:
    """The latest transitions, in arrays that are allocated once."""

    def __init__(self, capacity: int, width: int, actions: int) -> None:
        self.shown = np.zeros((capacity, width), np.float32)
        self.action = np.zeros(capacity, np.int64)
        self.terms = np.zeros((capacity, 3), np.float32)
        self.ticks = np.zeros(capacity, np.float32)
        self.terminated = np.zeros(capacity, np.bool_)
        self.next_shown = np.zeros((capacity, width), np.float32)
        self.next_open = np.zeros((capacity, actions), np.bool_)
        self.added = 0

    def __len__(self) -> int:
        return min(self.added, len(self.action))

    def add(self, **transition: Any) -> None:
        """Keeps a transition, in place of the oldest where there is no room."""
        place = self.added % len(self.action)
        for name, value in transition.items():
            getattr(self, name)[place] = value
        self.added += 1

    def sample(self, count: int, generator: np.random.Generator) -> dict[str, Any]:
        """A batch of tensors, drawn evenly."""
        places = generator.integers(len(self), size=count)
        return {
            name: torch.from_numpy(column[places])
            for name, column in vars(self).items()
            if isinstance(column, np.ndarray)
        }


def q_network(inputs: int, hidden: tuple[int, ...], outputs: int) -> Any:
    """A multi-layer perceptron with ReLU."""
    widths = (inputs, *hidden)
    layers: list[Any] = []
    for before, after in itertools.pairwise(widths):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], outputs))


class Learner:
    """The network that is trained, and the target that it is trained towards."""

    def __init__(self, inputs: int, actions: int, args: Args) -> None:
        self.args = args
        self.network = q_network(inputs, args.hidden, actions)
        self.target = q_network(inputs, args.hidden, actions)
        self.optimiser = torch.optim.Adam(self.network.parameters())
        self.begin(1)
        self.renew_target()

    def begin(self, episode: int) -> None:
        """Takes guidance, discount and learning rate of episode 1, 2, ..."""
        self.guidance_weight, self.discount = self.args.guide(episode)
        for group in self.optimiser.param_groups:
            group["lr"] = self.args.rate(episode)

    def renew_target(self) -> None:
        """Makes the target what the network is now."""
        self.target.load_state_dict(self.network.state_dict())

    def rewards(self, terms: Any) -> Any:
        """The scaled reward of each row of terms: progress, completions and guidance.

        Progress counts as many seconds as the future lasts, for which see `paper_progress` in Rust.
        """
        horizon_s = -self.args.tick_s / math.log(self.discount)
        weights = torch.tensor([horizon_s, 1.0, self.guidance_weight]) / self.args.reward_scale
        return terms @ weights

    def step(self, batch: dict[str, Any]) -> float:
        """One gradient step.

        Args:
            batch: Transitions.

        Returns:
            The loss before it.
        """
        with torch.no_grad():
            # The network chooses, the target says what the choice is worth. Hold is always open.
            values = self.network(batch["next_shown"]).masked_fill(~batch["next_open"], -torch.inf)
            chosen = self.target(batch["next_shown"]).gather(1, values.argmax(1, keepdim=True)).squeeze(1)
            future = torch.pow(self.discount, batch["ticks"]) * chosen * ~batch["terminated"]
            wanted = self.rewards(batch["terms"]) + future
        value = self.network(batch["shown"]).gather(1, batch["action"].unsqueeze(1)).squeeze(1)
        loss = torch.nn.functional.smooth_l1_loss(value, wanted)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.args.largest_gradient)
        self.optimiser.step()
        return float(loss.detach())


def train(args: Args, *, report: Callable[[Episode, Any], None] | None = None) -> Any:
    """Trains an agent.

    Args:
        args: What it depends on.
        report: Called after each episode with how it went and the network, which changes later.

    Returns:
        The network, from scaled numbers to the value of each action.
    """
    threads = torch.get_num_threads()
    # One thread sums in one order; networks of this size are no faster with more.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(args.seed)
            return _train(args, report)
    finally:
        torch.set_num_threads(threads)


def _train(args: Args, report: Callable[[Episode, Any], None] | None) -> Any:
    settings: dict[str, Any] = {"max_hold_s": LONGEST_HOLD_S}
    if args.requests is not None:
        settings["requests"] = args.requests
    env = RoutingEnv(args.scenario, spec={"reward": "paper_progress", "tick_s": args.tick_s}, **settings)
    scales = scales_of(env.feature_names)
    shown, info = env.reset(seed=args.first_episode)
    width, actions = len(shown), len(info["action_mask"])
    learner = Learner(width, actions, args)
    replay = Replay(args.replay, width, actions)
    generator = np.random.default_rng(args.seed)
    steps = decisions = 0

    for episode in range(1, args.episodes + 1):
        if episode > 1:
            shown, info = env.reset(seed=args.first_episode + episode - 1)
        learner.begin(episode)
        exploration = args.exploration(episode)
        first, seconds, holds, losses, over = decisions, 0.0, 0, [], False
        while not over:
            open_actions = info["action_mask"].astype(bool)
            if generator.random() < exploration:
                action = int(generator.choice(np.flatnonzero(open_actions)))
            else:
                action = greedy(learner.network, shown / scales, open_actions)
            passed = to_the_next_choice(env, action)
            replay.add(
                shown=shown / scales,
                action=action,
                terms=passed.terms,
                ticks=passed.seconds / args.tick_s,
                terminated=passed.terminated,
                next_shown=passed.shown / scales,
                next_open=passed.info["action_mask"],
            )
            shown, info, over = passed.shown, passed.info, passed.over
            decisions, seconds, holds = (
                decisions + 1,
                seconds + passed.seconds,
                holds + (action == actions - 1),
            )
            if len(replay) >= max(args.warm_up, args.batch) and decisions % args.train_every == 0:
                batch = replay.sample(args.batch, generator)
                if args.exchange_instances:
                    batch = exchanged(batch, generator.permutation(actions - 1))
                losses.append(learner.step(batch))
                steps += 1
                if steps % args.target_every == 0:
                    learner.renew_target()
        if report is not None:
            count = decisions - first
            loss = float(np.mean(losses)) if losses else math.nan
            report(Episode(episode, count, seconds, holds / count, loss), learner.network)
    return learner.network


@dataclasses.dataclass(slots=True)
class Passed:
    """What came between two decisions at which there was a choice.

    Attributes:
        shown: What the agent is shown at the second.
        info: The same of `info`.
        terms: Sums of the reward's terms.
        seconds: Seconds between the two.
        terminated: Whether every request has ended.
        over: Whether the episode is over.
    """

    shown: Numbers
    info: dict[str, Any]
    terms: NDArray[np.float64]
    seconds: float
    terminated: bool
    over: bool


def to_the_next_choice(env: RoutingEnv, action: int) -> Passed:
    """Carries out an action, and holds while no instance is open.

    So it is at two of three ticks. There is nothing to be learned at them, and values would take a step back for each.
    """
    terms, seconds = np.zeros(3), 0.0
    while True:
        shown, _, terminated, truncated, info = env.step(np.int64(action))
        terms += info["terms"]
        seconds += info["elapsed_s"]
        over = terminated or truncated
        if over or info["action_mask"][:-1].any():
            return Passed(shown, info, terms, seconds, terminated, over)
        action = len(info["action_mask"]) - 1


def exchanged(batch: dict[str, Any], order: NDArray[np.int64]) -> dict[str, Any]:
    """The batch as it were with the instances in another order: what was shown, what was open, and what was done.

    Args:
        batch: Transitions.
        order: Which instance comes first, second, ...
    """
    instances = len(order)
    of_queue, of_instances = np.split(np.arange(batch["shown"].shape[1]), [_OF_QUEUE])
    columns = np.concatenate([of_queue, of_instances.reshape(instances, -1)[order].ravel()])
    # Hold stays the last.
    actions = np.append(order, instances)
    return {
        **batch,
        "shown": batch["shown"][:, columns],
        "action": torch.from_numpy(np.argsort(actions))[batch["action"]],
        "next_shown": batch["next_shown"][:, columns],
        "next_open": batch["next_open"][:, actions],
    }


def greedy(network: Any, scaled: Numbers, open_actions: NDArray[np.bool_]) -> int:
    """The open action of the highest value."""
    with torch.no_grad():
        values = network(torch.from_numpy(scaled)).numpy()
    return int(np.where(open_actions, values, -np.inf).argmax())


def scales_of(names: list[str]) -> Numbers:
    """What each number is divided by on its way into the network."""
    found = [next(scale for end, scale in SCALES.items() if name.endswith(end)) for name in names]
    return np.array(found, np.float32)


def weights(network: Any, args: Args, **facts: Any) -> bytes:
    """The network as a file of weights for the policy `paper_agent`, scales folded in: it takes unscaled numbers.

    Args:
        network: What :func:`train` returns.
        args: What it was trained with.
        facts: What else the header is to say.
    """
    width = network[0].in_features
    names = RoutingEnv(args.scenario, spec={"tick_s": args.tick_s}).feature_names
    header = {
        "features": names,
        "tick_s": args.tick_s,
        "irouter": _core.VERSION,
        "training": dataclasses.asdict(args),
        **facts,
    }
    scales = torch.from_numpy(scales_of(names)).reshape(1, width)
    tensors = {f"network.{name}": tensor.detach().clone() for name, tensor in network.state_dict().items()}
    tensors["network.0.weight"] = tensors["network.0.weight"] / scales
    content: bytes = safetensors.torch.save(tensors, {"irouter": json.dumps(header, sort_keys=True)})
    return content
