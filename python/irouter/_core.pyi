"""The compiled core of irouter."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

_PolicyFunction: TypeAlias = Callable[[dict[str, Any], list[dict[str, Any]]], int]

LENGTH_LEVELS: Final[list[float]]
"""Levels of the quantiles that say what is known of an output length."""
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
        predicted_quantiles: NDArray[np.float64] | None = None,
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
            predicted_quantiles: What a predictor said of the output lengths, `[request, level]` at `LENGTH_LEVELS`, for
                the predictor `model:PATH`.

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
class LengthHistory:
    """Running quantiles of the output length per application and prompt length, learned from requests that have ended.

    A request is predicted from the newest 512 of its application whose prompts have as many bits as its own; with fewer
    than 32 of these, from those of its application, then from all; before that, from a wide prior. Memory is bounded.
    Safe to call from several threads.
    """

    def __new__(cls) -> LengthHistory:
        """A history that has seen nothing."""

    def observe(self, application: int, prompt_tokens: int, output_tokens: int, *, cut: bool = False) -> None:
        """Learns from a request that has ended.

        Args:
            application: Number of its application.
            prompt_tokens: Tokens of its prompt.
            output_tokens: Tokens that it produced, at least 1.
            cut: Whether a limit ended it, so that its length is at least this.

        Raises:
            IrouterError: For an output of 0 tokens.
        """

    def predict(
        self, applications: NDArray[np.int64], prompt_tokens: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Quantiles `[request, level]` in tokens, at `LENGTH_LEVELS`, of requests that arrive now.

        Raises:
            IrouterError: For columns of different lengths, or a number that is negative or beyond 32 bits.
        """

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
class Impact:
    """The latency impact of placing a request on an instance; times are from the decision on."""

    @property
    def instance(self) -> int:
        """The instance."""

    @property
    def ttft_s(self) -> float:
        """Seconds until its first token is out."""

    @property
    def e2e_s(self) -> float:
        """Seconds until its last token is out."""

    @property
    def inflicted_s(self) -> float:
        """By how many seconds the requests there end later, summed."""

    @property
    def largest_inflicted_s(self) -> float:
        """The same of the one that is delayed the most."""

    @property
    def kv_peak_share(self) -> float:
        """The most KV cache needed at a time, as a share of what there is; may exceed 1."""

    @property
    def overflow_probability(self) -> float:
        """Probability that somebody is preempted."""

    @property
    def preemptions(self) -> float | None:
        """Preemptions more with it than without, where they are counted: by `fast_forward`."""

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens expected in the prefix cache."""

    @property
    def residents(self) -> int:
        """Requests that are there."""

    @property
    def prompts_ahead(self) -> int:
        """How many of them have no token yet."""

    @property
    def explanation(self) -> str:
        """All that in one line."""

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

    @property
    def impact(self) -> Impact | None:
        """The latency impact expected of it; None from a router without `impact`."""

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
        impact: Literal["forecast", "fast_forward", "linear"] | None = "forecast",
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
            impact: How the latency impact of each decision is estimated; None for not at all, which is faster.
            tenant_weights: Shares of tenants in the central queue; a tenant that is not named has weight 1.

        Raises:
            IrouterError: For a bad profile, an unknown policy or form of the impact.
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

    def impact(self, key: int, *, now_s: float) -> list[Impact]:
        """The latency impact that a waiting request would have on each ready instance that can hold it, by number.

        Nobody else is taken to come later.

        Raises:
            IrouterError: For a request that does not wait, or a router without `impact`.
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
class VectorEnvironment:
    """Many environments over the simulator, stepped together without the GIL.

    One whose episode is over begins the next at the following step, whose action it ignores. Environment `i` of `n`
    runs the seeds `s_i`, `s_i + n`, `s_i + 2 n` and so on, where `s_i` is its own at the last reset (`i` at first).

    `reset` and `step` return columns with a row for each environment, written in Rust and handed over without a copy;
    no later step changes them: `observations` (float32, a column for each of `names`), `open` (which actions are open;
    hold always is), `rewards`, `terms` (cost of the requests in the system, completions, guidance without its weight),
    `elapsed_s` (seconds until the decision that is shown), `excluded` (the action was not open and counted as a hold),
    `terminated`, `truncated`. After a reset all but the first two are zero.
    """

    def __new__(
        cls,
        experiment_json: str,
        spec_json: str = "{}",
        workload: Workload | None = None,
        *,
        environments: int = 1,
        threads: int = 1,
    ) -> VectorEnvironment:
        """Sets up environments that run the seeds of an experiment, whatever its policies.

        Args:
            experiment_json: The experiment, as for `run_experiment`.
            spec_json: How an agent meets it: `observation`, `reward`, `tick_s`, `longest_hold_s`, `max_decisions`.
            workload: The trace, for an experiment that replays one.
            environments: How many.
            threads: Threads to use; 0 is one per core.

        Raises:
            IrouterError: Naming the bad value.
        """

    @property
    def environments(self) -> int:
        """How many environments there are."""

    @property
    def actions(self) -> int:
        """How many actions an agent has: each waiting request shown on each instance, and hold, the last."""

    @property
    def names(self) -> list[str]:
        """Names of the numbers that an agent is shown, in order."""

    @property
    def bounds(self) -> NDArray[np.float32]:
        """The smallest and the largest value of each of these numbers, `[number, 2]`; infinite without one."""

    def reset(self, seeds: Sequence[int] | None = None) -> dict[str, Any]:
        """Begins an episode in every environment: of its seed, or of the one that is next.

        Raises:
            IrouterError: Unless there is a seed for each.
        """

    def step(self, actions: NDArray[np.int64], *, guidance_weight: float = 0.0) -> dict[str, Any]:
        """Carries out an action in every environment, and goes on to the next decision of each.

        Args:
            actions: Number of an action for each: request by request, instance by instance, then hold.
            guidance_weight: Weight of the guidance in `rewards`.

        Raises:
            IrouterError: For a number that names no action, and before the first reset.
        """

def expected_lengths(quantiles: NDArray[np.float64], max_tokens: int = ...) -> NDArray[np.float64]:
    """Expected length in tokens of each row of quantiles `[request, level]` at `LENGTH_LEVELS`, cut at `max_tokens`.

    The survival function is linear between the quantiles and has a constant hazard beyond the last.

    Raises:
        IrouterError: For quantiles that are not finite, negative or descending.
    """

def length_survival(quantiles: NDArray[np.float64], tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability that the length of each row of quantiles exceeds each of its `tokens[request, column]`.

    Raises:
        IrouterError: As :func:`expected_lengths`, and for another number of rows.
    """

def length_quantiles(quantiles: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles of each row of quantiles `[request, level]` at other levels, as `[request, new level]`.

    Raises:
        IrouterError: As :func:`expected_lengths`, and for levels outside of 0 to 1.
    """

def censored_quantiles(
    tokens: NDArray[np.int64], cut: NDArray[np.bool_], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Quantiles of a sample of lengths, the marked ones known to be at least so long (Kaplan and Meier, 1958).

    Beyond the last length that was seen to end, the hazard is that of the whole sample.

    Raises:
        IrouterError: For an empty sample, columns of different lengths, or levels outside of 0 to 1.
    """

def kendall_tau_b(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Kendall's tau-b of two columns; None when all of either are equal.

    Raises:
        IrouterError: For columns of different lengths.
    """

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
    impact: Literal["forecast", "fast_forward", "linear"] | None = None,
) -> dict[str, Any]:
    """Runs the first policy of an experiment on its first seed and returns the requests as columns.

    With a form of the `impact` also what was expected at each dispatch.

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

def network_outputs(weights: bytes, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs of the network in a file of weights (safetensors, tensors `network.*`), as a policy computes them.

    Args:
        weights: Content of the file.
        inputs: A row for each input.

    Raises:
        IrouterError: For a file that is none, or inputs of another width.
    """

def policies() -> str:
    """Every policy as a JSON list of objects.

    Each has `name`, `description`, `origin`, `conformance_tested`, `options`, `equalised` and `tunable`.
    """

def guided_weights() -> bytes:
    """The file of weights of `guided` that the package ships."""

def observation() -> str:
    """What learned policies see, as a JSON object: the `version` of the list, and the names of its `features`."""
