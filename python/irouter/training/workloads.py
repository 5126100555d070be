"""What `guided` is trained on: generated mixes of tasks on clusters of every kind, all of it drawn."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter import profiles
from irouter.evaluation.experiment import Experiment, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BASELINE: Final = "least_work"
"""The policy that training measures against."""

PROFILES: Final = (
    "llama-2-7b@v100-paper",
    "llama-2-7b@a100",
    "llama-3.1-8b@a100",
    "llama-3.1-8b@h100",
    "llama-3.1-70b-tp4@h100",
)
"""Latency profiles trained on."""

LONG_CONTEXT_PROFILES: Final = PROFILES[2:]
"""Those of them whose context holds chats of several turns."""

INSTANCES: Final = (2, 3, 4)
"""Sizes of cluster trained on."""

SLOTS: Final = (16, 32, 64, 128, 256)
"""Batch slots of an instance."""

LOADS: Final = (0.4, 1.4)
"""Range of loads trained on, as a share of saturation."""

TRAINING_SEED: Final = 1 << 21
"""First seed of training windows: far from any that a comparison or a search for constants uses."""

SCENARIO_WINDOWS: Final = 4
"""Windows of a scenario in each generation."""

# Enough for the slowest of them to come and go many times: what a policy puts off has to come back to it.
_REQUESTS_PER_INSTANCE: Final = 800
# Of so many workloads two have the paper's cluster, one has chats of several turns, and one long prompts.
_ONE_IN: Final = 8
_CHATS, _PROMPTS = 1, 2
_PAPER_LOADS: Final = (1.2, 1.8)
_CLIENTS_PER_INSTANCE: Final = (30, 160)
# Shares of the other workloads.
_FIVE_TASKS: Final = 0.25
_BURSTY: Final = 0.3
_SMALL_CACHES: Final = 0.3
_NOISY: Final = 0.5
_NOT_CHUNKED: Final = 0.4


@dataclasses.dataclass(frozen=True, slots=True)
class _Lengths:
    """Least and largest mean of a task's prompts and outputs, and the longest of each, in tokens."""

    prompts: tuple[float, float]
    outputs: tuple[float, float]
    longest_prompt: int
    longest_output: int

    @property
    def least_blocks(self) -> int:
        """Two of the longest requests fit any KV cache."""
        return 2 * (self.longest_prompt + self.longest_output) // 16


# What the profile of the shortest context takes.
_SHORT: Final = _Lengths((50, 1500), (15, 500), 2800, 1200)
# Much to read and little to say, as where code is completed or documents are asked about.
_TO_READ: Final = _Lengths((800, 5000), (8, 100), 14000, 800)


def drawn(seed: int, generation: int, index: int) -> Experiment:
    """A workload on a cluster, drawn by these three numbers.

    The first and the fifth of every eight have the paper's cluster, overloaded for longer; the second has clients that
    chat in several turns with shared prefixes and wait for their answers; the third has long prompts and short
    outputs. Of the others some have the lengths of the
    paper's five tasks, most a mix of one to four tasks of their own. In some the KV cache is down to a tenth of the
    profile's, so that what holds is the cache here and the batch slots there. Predictions are as good as a real
    predictor's or worse, and some routers know neither noise nor the right step times.
    """
    random = np.random.default_rng([seed, generation, index])
    if index % (_ONE_IN // 2) == 0:
        paper = {"load": round(float(random.uniform(*_PAPER_LOADS)), 3), "predictor": _predictor(random)}
        return resolve("paper-main", None, {**paper, **_common(_window(generation, index))})
    if index % _ONE_IN == _CHATS:
        return resolve("chat-closed", None, {**_chats(random), **_common(_window(generation, index))})
    to_read = index % _ONE_IN == _PROMPTS
    lengths = _TO_READ if to_read else _SHORT
    profile = str(random.choice(LONG_CONTEXT_PROFILES if to_read else PROFILES))
    instances = int(random.choice(INSTANCES))
    settings: dict[str, Any] = {
        "profile": profile,
        "instances": instances,
        "load": round(float(random.uniform(*LOADS)), 3),
        "predictor": _predictor(random),
        "workload": {"kind": "generated", "arrivals": _arrivals(random), "lengths": _tasks(random, lengths)},
        "drop_too_long": True,
        "requests": instances * _REQUESTS_PER_INSTANCE,
        "scheduler": {"max_num_seqs": int(random.choice(SLOTS))},
        **_common(_window(generation, index)),
    }
    if random.random() < _SMALL_CACHES:
        blocks = profiles.load(profile)["kv"]["blocks"] * math.exp(random.uniform(math.log(0.1), 0.0))
        settings["kv_blocks"] = max(lengths.least_blocks, int(blocks))
    if random.random() < _NOT_CHUNKED:
        settings["scheduler"]["mode"] = "vllm-v0"
    if random.random() < _NOISY:
        settings |= {"step_noise": 0.08, "instance_noise": 0.05}
        settings["router_profile_error"] = {"step_time": float(random.choice([0.7, 1.0, 1.4]))}
    return resolve("conversation", None, settings)


def _chats(random: np.random.Generator) -> dict[str, Any]:
    instances = int(random.choice(INSTANCES))
    clients = instances * int(random.integers(*_CLIENTS_PER_INSTANCE))
    return {
        "profile": str(random.choice(LONG_CONTEXT_PROFILES)),
        "instances": instances,
        "predictor": _predictor(random),
        "clients": {"count": clients, "think_time_s": 5.0},
        "requests": instances * _REQUESTS_PER_INSTANCE,
    }


def of_scenario(scenario: str | Path, generation: int, load: float | None) -> Experiment:
    """Training windows of a scenario that generates its requests, at a load or as it stands."""
    settings = _common(_window(generation, 0)) | {"seeds": SCENARIO_WINDOWS}
    experiment = resolve(scenario, None, settings)
    return experiment if load is None else experiment.at_load(load)


def _common(first_seed: int) -> dict[str, Any]:
    return {
        "policies": [BASELINE],
        "reference": BASELINE,
        "seeds": 1,
        "first_seed": first_seed,
    }


def _window(generation: int, index: int) -> int:
    return TRAINING_SEED + (generation << 6) + index


def _arrivals(random: np.random.Generator) -> dict[str, Any]:
    if random.random() < _BURSTY:
        return {"kind": "gamma", "cv": round(float(random.uniform(1.5, 6.0)), 2)}
    return {"kind": "poisson"}


def _tasks(random: np.random.Generator, lengths: _Lengths) -> dict[str, Any]:
    if lengths is _SHORT and random.random() < _FIVE_TASKS:
        return {"kind": "paper-five-task"}
    tasks = [_task(random, lengths, number) for number in range(random.integers(1, 5))]
    return {"kind": "tasks", "tasks": tasks}


def _task(random: np.random.Generator, lengths: _Lengths, number: int) -> dict[str, Any]:
    def drawn_lengths(means: tuple[float, float], longest: int) -> dict[str, Any]:
        mean = math.exp(random.uniform(*np.log(means)))
        return {
            "mean": round(mean, 1),
            "sigma": round(float(random.uniform(0.4, 1.2)), 2),
            "most": longest,
        }

    return {
        "name": f"task-{number}",
        "weight": round(float(random.uniform(0.2, 1.0)), 2),
        "prompt": drawn_lengths(lengths.prompts, lengths.longest_prompt),
        "output": drawn_lengths(lengths.outputs, lengths.longest_output),
    }


def _predictor(random: np.random.Generator) -> str:
    kinds: Sequence[str] = (
        f"noisy:{random.uniform(0.3, 0.6):.2f}",
        "none",
        "lognormal:0.5",
        "buckets:0.79",
    )
    return str(random.choice(kinds, p=(0.7, 0.1, 0.1, 0.1)))


def described() -> dict[str, Any]:
    """What the drawn workloads range over, for the header of a file of weights."""
    return {
        "lengths": [
            "paper-five-task",
            "mixes of one to four log-normal tasks",
            "long prompts with short outputs",
            "chats of several turns",
        ],
        "profiles": PROFILES,
        "instances": INSTANCES,
        "slots": SLOTS,
        "loads": LOADS,
        "first_seed": TRAINING_SEED,
    }
