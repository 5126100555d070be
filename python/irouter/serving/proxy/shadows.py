"""Shadow policies: what others would have made of the last requests, by the simulator, beside what was measured."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter import _core
from irouter._core import IrouterError
from irouter.evaluation.experiment import resolve
from irouter.evaluation.policies import choice_of
from irouter.evaluation.traces import Trace
from irouter.serving.proxy.journal import note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from irouter.serving.instances import LoadedProfile
    from irouter.serving.proxy.pool import Pool
    from irouter.serving.proxy.window import Seen

PERCENTILES: Final = (50, 90, 99)
# Fewer requests say nothing of a tail.
_LEAST_REQUESTS: Final = 20
# Of the window, the part whose requests are simulated to fill the engines and are not counted.
_WARM_UP: Final = 0.25
# Simulating takes at most this share of one core.
_MOST_CPU: Final = 0.05
_SIMULATED: Final = "model:window"


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """Latencies under one policy.

    Attributes:
        policy: The policy.
        simulated: Whether they are the simulator's, not measured.
        e2e_s: Arrival to the last token, at `PERCENTILES`.
        ttft_s: Arrival to the first token, the same; None where no request was streamed.
    """

    policy: str
    simulated: bool
    e2e_s: list[float]
    ttft_s: list[float] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Outlook:
    """What came of the last simulation.

    Attributes:
        requests: Requests that the latencies are of: the same in every row.
        rows: The policy that runs, measured and then simulated, and the others.
        trouble: Why there is nothing, where there is not.
    """

    requests: int = 0
    rows: tuple[Row, ...] = ()
    trouble: str | None = "too few requests have finished"


class Shadows:
    """Simulates the last requests of a pool in a thread, every `interval_s` seconds at most."""

    def __init__(
        self, pool: Pool, policies: Sequence[str], *, interval_s: float, window_s: float, max_hold_s: float
    ) -> None:
        self._pool = pool
        own = choice_of(pool.config.policy)
        self._own = own.label
        names = [] if own.is_external else [pool.config.policy]
        self._policies = [*names, *(policy for policy in policies if choice_of(policy).label != own.label)]
        for policy in self._policies:
            # A name that nobody knows is an error now, not in a thread later.
            _core.Router([], choice_of(policy).to_spec())
        self._interval_s = interval_s
        self._window_s = window_s
        self._max_hold_s = max_hold_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="irouter-shadows", daemon=True)
        self.outlook = Outlook()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, after the simulation that it is at."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        pause_s = self._interval_s
        while not self._closing.wait(pause_s):
            started = time.thread_time()
            try:
                self.outlook = self.look()
            except IrouterError as error:
                self.outlook = Outlook(trouble=str(error))
            except Exception as error:  # noqa: BLE001 - a picture must not end with its first surprise; it is said
                note("shadows_failed", reason=f"{type(error).__name__}: {error}")
                self.outlook = Outlook(trouble="the simulation failed: the log says why")
            pause_s = max(self._interval_s, (time.thread_time() - started) / _MOST_CPU)

    def look(self) -> Outlook:
        """Simulates once.

        Raises:
            IrouterError: When what ran cannot be simulated.
        """
        window = self._pool.window
        if window is None:
            return Outlook()
        begin_s = window.now() - self._window_s
        seen = [entry for entry in window.requests() if entry.submitted_s >= begin_s]
        if not seen:
            return Outlook()
        warm_s = seen[0].submitted_s + _WARM_UP * (window.now() - seen[0].submitted_s)
        counted = np.array([entry.submitted_s >= warm_s and entry.ending == "finished" for entry in seen])
        if counted.sum() < _LEAST_REQUESTS:
            return Outlook()
        streamed = counted & np.array([entry.first_token_s is not None for entry in seen])
        profile, path, instances = self._cluster()
        trace, workload = _trace(seen, profile)
        rows = [_measured(self._own, seen, counted, streamed)]
        for policy in self._policies:
            columns = self._simulate(policy, trace, workload, path, instances)
            rows.append(_row(choice_of(policy).label, columns, counted, streamed))
        return Outlook(int(counted.sum()), tuple(rows), None)

    def _cluster(self) -> tuple[LoadedProfile, str | Path, int]:
        ready = [
            self._pool.instances[entry.url]
            for entry in self._pool.router.instances
            if entry.status == "ready" and entry.url in self._pool.instances
        ]
        paths = {str(instance.profile): instance.profile for instance in ready}
        if len(paths) != 1:
            raise IrouterError(f"the instances have {len(paths)} profiles, expected one for all of them")
        (path,) = paths.values()
        return self._pool.loaded(str(path)), path, len(ready)

    def _simulate(
        self, policy: str, trace: Trace, workload: _core.Workload, profile: str | Path, instances: int
    ) -> dict[str, NDArray[Any]]:
        settings = {
            "policies": [policy],
            "reference": choice_of(policy).label,
            "profile": str(profile),
            "instances": instances,
            "max_hold_s": self._max_hold_s,
            "predictor": "none",
        }
        experiment = resolve(None, trace, settings)
        # What was predicted is in the workload: nothing is read for it.
        told = dataclasses.replace(experiment, settings={**experiment.settings, "predictor": _SIMULATED})
        columns = _core.simulate(told.to_json(), workload)
        return {name: np.asarray(columns[name]) for name in ("arrival_s", "first_token_s", "finished_s")}


def _trace(seen: Sequence[Seen], profile: LoadedProfile) -> tuple[Trace, _core.Workload]:
    """The requests as the simulator takes them, with what was predicted of them.

    Of one that has not finished the length is what was expected of it; of one that broke off, what it had produced.
    """
    first_s = seen[0].submitted_s
    quantiles = np.array([_quantiles(entry.fields) for entry in seen])
    expected = np.rint(_core.expected_lengths(quantiles)).astype(np.int64)
    produced = np.array([entry.tokens for entry in seen], dtype=np.int64)
    alive = np.array([entry.ended_s is None for entry in seen])
    prompts = np.array([entry.fields["prompt_tokens"] for entry in seen], dtype=np.int64)
    output = np.where(alive, np.maximum(expected, produced + 1), produced)
    trace = Trace(
        name="window",
        format="window",
        arrival_s=np.array([entry.submitted_s - first_s for entry in seen]),
        input_tokens=prompts,
        output_tokens=np.clip(output, 1, np.maximum(1, profile.max_model_len - prompts)),
    )
    blocks = [_blocks(entry, profile.block_tokens) for entry in seen]
    workload = _core.Workload(
        trace.arrival_s,
        trace.input_tokens,
        trace.output_tokens,
        max_tokens=np.maximum(
            trace.output_tokens, np.array([entry.fields["max_tokens"] for entry in seen], dtype=np.int64)
        ),
        tenant=_codes([entry.fields["tenant"] for entry in seen]),
        session=_codes(
            [
                # A request without a session is one of its own.
                ("alone", entry.number) if entry.fields["session"] is None else entry.fields["session"]
                for entry in seen
            ]
        ),
        priority=np.array([entry.fields["priority"] for entry in seen], dtype=np.int32),
        block_offsets=np.cumsum([0, *map(len, blocks)], dtype=np.int64),
        block_hashes=np.concatenate(blocks).view(np.int64),
        hash_block_tokens=profile.block_tokens,
        predicted_quantiles=quantiles,
    )
    return trace, workload


def _quantiles(fields: dict[str, Any]) -> list[float]:
    quantiles = fields["predicted_quantiles"]
    if quantiles is not None:
        return [float(quantile) for quantile in quantiles]
    tokens = fields["max_tokens"] if fields["predicted_tokens"] is None else fields["predicted_tokens"]
    return [float(tokens)] * len(_core.LENGTH_LEVELS)


def _blocks(entry: Seen, block_tokens: int) -> NDArray[np.uint64]:
    """Hashes of a prompt, as many as it has full blocks: its tokens are an estimate and may not fit its text."""
    full = entry.fields["prompt_tokens"] // block_tokens
    hashes = list(entry.fields["prompt_blocks"] or ())[:full]
    # What nobody else has: no two requests share what is not known of them.
    unknown = ((entry.number << 24) + block for block in range(len(hashes), full))
    return np.array([*hashes, *unknown], dtype=np.uint64)


def _codes(values: Sequence[object]) -> NDArray[np.int64]:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def _measured(
    policy: str, seen: Sequence[Seen], counted: NDArray[np.bool_], streamed: NDArray[np.bool_]
) -> Row:
    columns = {
        "arrival_s": np.array([entry.submitted_s for entry in seen]),
        "first_token_s": np.array([entry.first_token_s or np.nan for entry in seen]),
        "finished_s": np.array([entry.ended_s or np.nan for entry in seen]),
    }
    return dataclasses.replace(_row(policy, columns, counted, streamed), simulated=False)


def _row(
    policy: str,
    columns: dict[str, NDArray[Any]],
    counted: NDArray[np.bool_],
    streamed: NDArray[np.bool_],
) -> Row:
    e2e_s = (columns["finished_s"] - columns["arrival_s"])[counted]
    ttft_s = (columns["first_token_s"] - columns["arrival_s"])[streamed]
    return Row(
        policy=policy,
        simulated=True,
        e2e_s=np.percentile(e2e_s, PERCENTILES).tolist(),
        ttft_s=np.percentile(ttft_s, PERCENTILES).tolist() if len(ttft_s) else None,
    )
