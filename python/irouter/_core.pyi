"""The compiled core of irouter."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

_PolicyFunction: TypeAlias = Callable[[dict[str, Any], list[dict[str, Any]]], int]

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

@final
class Decision:
    """One dispatch."""

    @property
    def key(self) -> int:
        """The router's handle of the request, for its events."""

    @property
    def request_id(self) -> int:
        """The caller's number of the request."""

    @property
    def instance(self) -> int:
        """Where it goes."""

    @property
    def waited_s(self) -> float:
        """Seconds that it waited at the router."""

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens expected in the instance's prefix cache."""

    @property
    def fallback(self) -> bool:
        """Whether the policy failed and the least predicted work decided."""

@final
class Router:
    """A router: a central queue, the state of every instance, and a policy, driven by events and explicit time.

    Every call takes the time in seconds of one monotonic clock. Safe to call from several threads.
    """

    def __new__(
        cls,
        profiles: Sequence[str],
        policy: str | _PolicyFunction,
        *,
        seed: int = 0,
        max_hold_s: float = 60.0,
        overtaking_s: float = 30.0,
        dispatch_delay_s: float = 0.001,
        tenant_weights: dict[int, float] | None = None,
    ) -> Router:
        """A router with one instance per profile.

        Args:
            profiles: Profiles as JSON.
            policy: Name of a policy, a JSON object with `name` and `options`, or a function.
            seed: Seed of the policy's random choices.
            max_hold_s: The longest that a request may be held while an engine has room; infinity for no limit.
            overtaking_s: The most predicted work, in seconds, that may overtake a request.
            dispatch_delay_s: Seconds from a decision until the engine has the request.
            tenant_weights: Shares of tenants in the central queue; a tenant that is not named has weight 1.

        Raises:
            IrouterError: For a bad profile or an unknown policy.
        """

    def submit(
        self,
        request_id: int,
        *,
        now_s: float,
        prompt_tokens: int,
        max_tokens: int,
        predicted_tokens: int | None = None,
        predicted_quantiles: Sequence[float] | None = None,
        prompt_blocks: Sequence[int] | None = None,
        priority: int = 0,
        deadline_s: float | None = None,
        tenant: int = 0,
        session: int | None = None,
    ) -> int:
        """Takes a request into the central queue and returns its handle.

        The output length is given as one expected number of tokens or as quantiles; without either, `max_tokens` is
        expected.

        Raises:
            IrouterError: For a request that fits no instance.
        """

    def decide(self, now_s: float) -> Decision | float | None:
        """Decides on one waiting request.

        Returns:
            A `Decision`; or the time of the next decision in seconds when requests are held (infinity: at the next
            event); or None when none waits.
        """

    def preview(self, now_s: float) -> tuple[int, int] | None:
        """The key of the request that the policy would send now and the instance, without sending it.

        For a host that follows somebody else's decisions and compares. What a policy draws at random is drawn again the
        next time.

        Returns:
            None when the policy would hold, or none waits.
        """

    def dispatch(self, key: int, instance: int, *, now_s: float) -> Decision:
        """Sends a waiting request to an instance of the caller's choice, whatever the policy would do.

        Raises:
            IrouterError: For an instance that takes no requests, or a request that does not wait.
        """

    def place(self, key: int, *, now_s: float, excluded: Sequence[int] | None = None) -> Decision:
        """Sends a waiting request now, past all others: where the policy places it, else by least predicted work.

        Args:
            key: The request.
            now_s: The time.
            excluded: Instances that it must not go to.

        Raises:
            IrouterError: When no ready instance outside of `excluded` can hold the request.
        """

    def first_token(self, key: int, *, now_s: float, cached_tokens: int | None = None) -> None:
        """The first token of a request came; `cached_tokens` when the engine says what its prefix cache gave."""

    def progress(self, key: int, tokens: int, *, now_s: float) -> None:
        """A request has produced `tokens` so far."""

    def finished(self, key: int, *, now_s: float, tokens: int | None = None) -> None:
        """A request is complete."""

    def failed(self, key: int, *, now_s: float) -> None:
        """A request broke on its instance."""

    def cancelled(self, key: int, *, now_s: float) -> None:
        """The client of a request went away."""

    def join(self, instance: int, profile: str, *, now_s: float) -> None:
        """An instance takes requests: a new one (the next free number) or one that left before."""

    def drain(self, instance: int, *, now_s: float) -> None:
        """An instance takes no more requests, and finishes those it has."""

    def resume(self, instance: int, *, now_s: float) -> None:
        """An instance that was draining takes requests again."""

    def leave(self, instance: int, *, now_s: float) -> list[int]:
        """An instance is gone; returns the callers' numbers of the requests lost with it."""

    def report(
        self,
        instance: int,
        *,
        now_s: float,
        waiting: int,
        running: int,
        kv_usage: float,
        queued_prefill_tokens: int = 0,
    ) -> None:
        """An engine reported its metrics."""

    @property
    def waiting(self) -> int:
        """Requests at the router."""

    @property
    def in_flight(self) -> list[int]:
        """Requests on each instance, by number."""

    @property
    def instances(self) -> list[dict[str, Any]]:
        """Every instance ever known, by number: what is on it, `status` (ready, draining, gone) and `generation`."""

    @property
    def fallbacks(self) -> int:
        """How often the policy failed and the least predicted work decided instead."""

@final
class Engine:
    """One emulated instance: the engine model of the simulator, driven by explicit time."""

    def __new__(
        cls, profile: str, *, seed: int = 0, step_noise: float = 0.0, progress_tokens: int = 1
    ) -> Engine:
        """An idle engine at time 0.

        Args:
            profile: Profile as JSON.
            seed: Seed of the noise.
            step_noise: Sigma of the log-normal noise on step times.
            progress_tokens: It tells of every multiple of so many tokens.

        Raises:
            IrouterError: For a bad profile or a value out of range.
        """

    def submit(
        self,
        tag: int,
        *,
        now_s: float,
        prompt_tokens: int,
        output_tokens: int,
        prompt_blocks: Sequence[int] | None = None,
    ) -> int:
        """Adds a request that will produce `output_tokens`.

        Returns:
            Its slot, valid until it has finished or was cancelled.

        Raises:
            IrouterError: For a request that can never run here.
        """

    def cancel(self, slot: int, *, now_s: float) -> None:
        """Takes a request out at the next step."""

    def advance(self, now_s: float) -> list[tuple[str, int, float, int]]:
        """Runs up to `now_s`.

        Returns:
            What happened, in order: `(kind, tag, at_s, tokens)` with the kinds `admitted` (tokens from the
            prefix cache), `first_token`, `progress` (tokens so far), `preempted`, `finished` and `cancelled`.
        """

    def next_event_s(self) -> float | None:
        """A time before which nothing more happens if no further call is made; None when nothing is to come."""

    @property
    def load(self) -> dict[str, Any]:
        """What it holds: `waiting`, `running`, `queued_prefill_tokens`, `kv_usage` (0 to 1)."""

def text_blocks(text: str, block_tokens: int) -> tuple[list[int], int]:
    """Hashes of the full blocks of a prompt's text, and the tokens that the text is taken to have.

    Args:
        text: The prompt.
        block_tokens: Tokens per block; four bytes of the text are taken as one.

    Returns:
        The hashes, each covering the text up to the end of its block, and the number of tokens.
    """

def run_experiment(
    experiment_json: str,
    workload: Workload | None = None,
    *,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
    callables: dict[str, _PolicyFunction] | None = None,
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
    callables: dict[str, _PolicyFunction] | None = None,
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

def kv_capacity_blocks(model: str, memory_gib: float, tensor_parallel: int, block_tokens: int) -> int:
    """Blocks of `block_tokens` tokens in the KV cache of one instance on accelerators of `memory_gib` GiB each.

    Raises:
        IrouterError: For an unknown model, or naming the bad argument.
    """

def policies() -> str:
    """Every policy as a JSON list of objects.

    Each has `name`, `description`, `origin`, `conformance_tested`, `options`, `equalised` and `tunable`.
    """
