"""The compiled core of irouter."""

from collections.abc import Callable
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

BUILD_PROFILE: Final[str]
"""Whether this is an optimised build: `release` or `debug`."""
VERSION: Final[str]
"""The version of the package."""

class IrouterError(ValueError):
    """Bad input or an impossible event. The message names the bad value and what was expected."""

@final
class Workload:
    """Requests in order of arrival."""

    def __new__(
        cls,
        arrival_s: NDArray[np.float64],
        input_tokens: NDArray[np.int64],
        output_tokens: NDArray[np.int64],
        *,
        max_tokens: NDArray[np.int64] | None = None,
        application: NDArray[np.int64] | None = None,
        tenant: NDArray[np.int64] | None = None,
        session: NDArray[np.int64] | None = None,
        priority: NDArray[np.int32] | None = None,
        block_offsets: NDArray[np.int64] | None = None,
        block_hashes: NDArray[np.int64] | None = None,
        hash_block_tokens: int | None = None,
    ) -> Workload:
        """Checks the columns and keeps a copy.

        Args:
            arrival_s: Arrivals in seconds, at or after 0, non-decreasing.
            input_tokens: Tokens of each prompt, at least 1.
            output_tokens: Tokens that each request produces, at least 1.
            max_tokens: Most tokens that a request may produce.
            application: Class of each request that a router is told.
            tenant: Tenant of each request.
            session: Session of each request.
            priority: Priority of each request; higher goes first.
            block_offsets: Where the prefix hashes of each request start, and the end of the last.
            block_hashes: Prefix hashes of all requests, one after the other.
            hash_block_tokens: Tokens of the prompt per hash.

        Raises:
            IrouterError: Naming the first bad row.
        """

    def __len__(self) -> int: ...
    @property
    def arrival_s(self) -> NDArray[np.float64]:
        """Arrivals in seconds."""

    @property
    def input_tokens(self) -> NDArray[np.uint32]:
        """Tokens of each prompt."""

    @property
    def output_tokens(self) -> NDArray[np.uint32]:
        """Tokens that each request produces."""

@final
class Profile:
    """A latency profile: a model on an accelerator behind one engine configuration."""

    def __new__(cls, json: str) -> Profile:
        """Reads a profile from JSON.

        Raises:
            IrouterError: Naming the first bad field.
        """

    def to_json(self) -> str:
        """The profile as JSON."""

    @property
    def name(self) -> str:
        """Name such as `llama-3.1-8b@h100`."""

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache of one instance holds."""

    def step_ms(
        self,
        *,
        prefill_sequences: int = 0,
        prefill_tokens: int = 0,
        prefill_pairs: int = 0,
        decodes: int = 0,
        decode_context: int = 0,
    ) -> float:
        """Duration of one step in milliseconds."""

def run_experiment(
    experiment_json: str,
    workload: Workload | None = None,
    *,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
    callables: dict[str, Callable[[dict[str, Any], list[dict[str, Any]]], int]] | None = None,
) -> str:
    """Runs every policy of an experiment on every seed and returns the runs as canonical JSON.

    Args:
        experiment_json: The experiment.
        workload: The trace, for an experiment that replays one.
        threads: Threads to use; 0 is one per core. The result does not depend on it.
        progress: Called as `progress(done, total)` after each run.
        callables: Policies of the caller's own by name, each `(request, instances) -> instance number`.

    Raises:
        IrouterError: For bad input.
    """

def simulate(
    experiment_json: str,
    workload: Workload | None = None,
    *,
    callables: dict[str, Callable[[dict[str, Any], list[dict[str, Any]]], int]] | None = None,
) -> dict[str, Any]:
    """Runs the first policy of an experiment on its first seed and returns the requests as columns.

    Returns:
        A NumPy array per column; the outcomes are a list of words.

    Raises:
        IrouterError: For bad input.
    """

def fit_step_log(
    template_json: str,
    *,
    name: str,
    data: str,
    prefill_sequences: NDArray[np.int64],
    prefill_tokens: NDArray[np.int64],
    prefill_pairs: NDArray[np.int64],
    decodes: NDArray[np.int64],
    decode_context: NDArray[np.int64],
    duration_ms: NDArray[np.float64],
    form: str = "C",
    seed: int = 0,
) -> dict[str, Any]:
    """Fits step times to a log of engine steps; a quarter of them, drawn with `seed`, is held out.

    Returns:
        `profile` as JSON, `predicted_ms` and `held_out` per step, and `held_out_error_percent`.

    Raises:
        IrouterError: Naming the first bad step, or for a log that does not determine the coefficients.
    """

def fit_request_log(
    template_json: str,
    *,
    name: str,
    data: str,
    arrival_s: NDArray[np.float64],
    input_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    first_token_s: NDArray[np.float64],
    last_token_s: NDArray[np.float64],
    seed: int = 0,
) -> dict[str, Any]:
    """Fits step times to a log of the requests of one instance by replaying it; a quarter is held out.

    Returns:
        `profile` as JSON; `predicted_first_s`, `predicted_last_s` and `held_out` per request;
        `held_out_e2e_error_percent` and `held_out_ttft_error_percent`.

    Raises:
        IrouterError: Naming the first bad request.
    """

def policies() -> list[tuple[str, str]]:
    """Every policy: name and description in one line."""
