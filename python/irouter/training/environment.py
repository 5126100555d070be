"""The simulator as Gymnasium environments: an agent decides which instance serves each request, or holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypedDict, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from irouter import _core
from irouter._core import IrouterError
from irouter._extras import require
from irouter.evaluation.experiment import resolve

if TYPE_CHECKING:
    from pathlib import Path

    from irouter.evaluation import Settings, Trace

require("gymnasium", extra="train", purpose="an environment for agents")

import gymnasium  # noqa: E402 - after it is known to be there
from gymnasium import spaces, vector  # noqa: E402

Numbers: TypeAlias = NDArray[np.float32]

_COLUMNS: Final = ("elapsed_s", "excluded", "terms")


class Spec(TypedDict, total=False):
    """How an agent meets a scenario.

    Attributes:
        observation: What it is shown: `counts`, the state of the paper's agents (27 numbers for 4 instances), or
            `pairs`, what `guided` sees: its features of each pair of a request and an instance.
        reward: `requests_in_system` (the default): minus the seconds that requests have spent in the system since
            the decision before, so that an episode's sum is minus the sum of its latencies. `paper`: equation 3.
            `paper_progress`: the same, less what no action changes.
        tick_s: Seconds between decisions, one request at each; 0.02 in the paper. Without it, the agent decides at
            every arrival and event, on as many requests as it likes.
        longest_hold_s: The longest hold without a tick.
        max_decisions: Decisions after which an episode is truncated.
    """

    observation: str
    reward: str
    tick_s: float | None
    longest_hold_s: float
    max_decisions: int | None


class RoutingEnv(gymnasium.Env[Numbers, np.int64]):
    """One cluster, an episode for each seed of a scenario.

    Actions number the waiting requests that are shown, each on each instance, and hold, the last. An action that is
    not open (`info["action_mask"]`) counts as a hold (`info["excluded"]`). `info` has `elapsed_s`, the seconds until
    the decision that is shown, and `terms`: the reward's cost, completions and guidance. An episode terminates with
    its last request.

    Example:
        >>> env = RoutingEnv("paper-main", requests=100, spec={"reward": "paper", "tick_s": 0.02})
        >>> shown, info = env.reset(seed=1)
        >>> len(shown), int(env.action_space.n)
        (27, 5)

    Args:
        scenario: Name or `.toml` file of a scenario.
        trace: The trace that it replays, or its file.
        spec: How the agent meets it.
        guidance_weight: Weight in the reward of the gap between the chosen instance and the one with the least latency
            impact; may be changed between steps.
        settings: Settings in force over the scenario's.

    Raises:
        IrouterError: Naming the bad value.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(
        self,
        scenario: str | Path | None = None,
        trace: str | Path | Trace | None = None,
        *,
        spec: Spec | None = None,
        guidance_weight: float = 0.0,
        **settings: Unpack[Settings],
    ) -> None:
        self._core = _environments(scenario, trace, spec, settings, environments=1, threads=1)
        self.guidance_weight = guidance_weight
        self.observation_space, self.action_space = _spaces(self._core)
        self._over = True

    @property
    def feature_names(self) -> list[str]:
        """Names of the numbers that the agent is shown."""
        return self._core.names

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Numbers, dict[str, Any]]:
        """Begins the episode of `seed`, or of the seed after the last one."""
        super().reset(seed=seed, options=options)
        columns = self._core.reset(None if seed is None else [seed])
        self._over = False
        return columns["observations"][0], _info(columns, 0)

    def step(self, action: np.int64) -> tuple[Numbers, float, bool, bool, dict[str, Any]]:
        """Carries out an action and goes on to the next decision."""
        if self._over:
            raise IrouterError("the episode is over: call `reset` before the next `step`")
        columns = self._core.step(np.array([action], np.int64), guidance_weight=self.guidance_weight)
        terminated, truncated = bool(columns["terminated"][0]), bool(columns["truncated"][0])
        self._over = terminated or truncated
        return (
            columns["observations"][0],
            float(columns["rewards"][0]),
            terminated,
            truncated,
            _info(columns, 0),
        )


class RoutingVectorEnv(vector.VectorEnv[Numbers, NDArray[np.int64], NDArray[Any]]):
    """Many clusters, stepped together in Rust without the GIL.

    One whose episode is over begins the next at the following step, whose action it ignores
    (`AutoresetMode.NEXT_STEP`). Environment `i` of `n` runs the seeds `seed + i`, `seed + i + n` and so on. What a step
    returns is never changed by a later one. `infos` has the columns `action_mask`, `elapsed_s`, `excluded` and `terms`.

    Args:
        scenario: Name or `.toml` file of a scenario.
        trace: The trace that it replays, or its file.
        num_envs: How many.
        threads: Threads to use; 0 is one per core.
        spec: How the agents meet it.
        guidance_weight: As in :class:`RoutingEnv`.
        settings: Settings in force over the scenario's.

    Raises:
        IrouterError: Naming the bad value.
    """

    metadata: dict[str, Any] = {"autoreset_mode": vector.AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        scenario: str | Path | None = None,
        trace: str | Path | Trace | None = None,
        *,
        num_envs: int,
        threads: int = 1,
        spec: Spec | None = None,
        guidance_weight: float = 0.0,
        **settings: Unpack[Settings],
    ) -> None:
        self._core = _environments(scenario, trace, spec, settings, environments=num_envs, threads=threads)
        self.guidance_weight = guidance_weight
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = _spaces(self._core)
        self.observation_space = vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = vector.utils.batch_space(self.single_action_space, num_envs)

    @property
    def feature_names(self) -> list[str]:
        """Names of the numbers that the agents are shown."""
        return self._core.names

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Numbers, dict[str, Any]]:
        """Begins an episode in every environment: of its seed, or of its next one without `seed`."""
        first = seed if isinstance(seed, int) else None
        super().reset(seed=first, options=options)
        seeds = [seed + index for index in range(self.num_envs)] if isinstance(seed, int) else seed
        columns = self._core.reset(seeds)
        return columns["observations"], _infos(columns)

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Numbers, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Carries out an action in every environment."""
        columns = self._core.step(np.asarray(actions, np.int64), guidance_weight=self.guidance_weight)
        return (
            columns["observations"],
            columns["rewards"],
            columns["terminated"],
            columns["truncated"],
            _infos(columns),
        )


def _environments(
    scenario: str | Path | None,
    trace: str | Path | Trace | None,
    spec: Spec | None,
    settings: Settings,
    *,
    environments: int,
    threads: int,
) -> _core.VectorEnvironment:
    # An experiment has policies; an environment has an agent in their place, and asks none.
    experiment = resolve(scenario, trace, {**settings, "policies": ["round_robin"], "sweep": []})
    workload = None if experiment.trace is None else experiment.trace.workload()
    return _core.VectorEnvironment(
        experiment.to_json(),
        json.dumps({} if spec is None else spec),
        workload,
        environments=environments,
        threads=threads,
    )


def _spaces(core: _core.VectorEnvironment) -> tuple[spaces.Space[Numbers], spaces.Discrete]:
    lowest, highest = core.bounds.T
    box = spaces.Box(lowest, highest, dtype=np.float32)
    return cast("spaces.Space[Numbers]", box), spaces.Discrete(core.actions)


def _info(columns: dict[str, Any], row: int) -> dict[str, Any]:
    return {name: column[row] for name, column in _infos(columns).items()}


def _infos(columns: dict[str, Any]) -> dict[str, Any]:
    # The same memory: masks are of 8-bit integers in Gymnasium.
    return {"action_mask": columns["open"].view(np.int8), **{name: columns[name] for name in _COLUMNS}}
