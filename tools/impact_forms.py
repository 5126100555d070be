"""Compares the three forms of the latency impact, prints the tables and writes docs/impact.md with them.

python tools/impact_forms.py
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import irouter
from irouter import profiles
from irouter._core import Router
from irouter.evaluation.traces import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from irouter.evaluation.comparison import Simulation

Form = Literal["linear", "forecast", "fast_forward"]

PAGE = Path(__file__).parents[1] / "docs" / "impact.md"
FORMS: tuple[Form, ...] = ("linear", "forecast", "fast_forward")
PREDICTORS = ("noisy:0.45", "oracle")
CASES: dict[str, dict[str, Any]] = {
    "`conversation` at 0.9": {"scenario": "conversation", "load": 0.9, "requests": 2000},
    "`conversation` at 1.1": {"scenario": "conversation", "load": 1.1, "requests": 2000},
    "`paper-main`": {"scenario": "paper-main"},
}
SAMPLE = 60
"""Dispatches of a run whose effect on the others is found by running it again without them."""
SEEDS = 10
RESIDENTS, INSTANCES = 32, 8

PAGE_HEAD = """\
# The latency impact in three forms

What placing a request on an instance does: its own TTFT and E2E, and by how much it delays those who are there. Each
form answers for one instance, and takes nobody to come later:

| form | how |
|---|---|
| `linear` | two gradients, fitted to the profile, times sums over the requests there (Jain et al., section 5.2) |
| `forecast` | expected residents and KV cache at the coming steps, from predicted distributions, as step times |
| `fast_forward` | the instance's twin, run to its end at mean lengths with the request and without it |

`Router.impact` gives it for a waiting request, `Decision.impact` for what was decided, and `least_impact` places by it.
`python tools/impact_forms.py` writes this page; it takes less than three minutes of CPU time.

## Error

Dispatches of one window under `least_work`, exact conditions: {sample} of each, evenly spread. **Alone** is what would
have happened with nobody coming later, which is what the forms are asked for, and **then** is what happened, with all
who came; both by the true engine at true lengths. What a request inflicted is found by running its instance again
without it. Each cell is bias / mean absolute error, as shares of the mean of what happened.

"""

PAGE_TIME = """
## Time

One estimate on an instance with {residents} residents, some time after the last one, through `Router.impact` over
{instances} instances; as multiples of `forecast`.

"""

PAGE_GAIN = """
## What a policy gains

`least_impact` with each form beside `least_work`, {seeds} windows, predictor `noisy:0.45`: ratios to `least_work` with
95 % intervals.

"""


PAGE_TAIL = """
## Reading

* **With known lengths `forecast` and `fast_forward` are nearly exact where nobody else comes**, without a queue in the
  engine. With real predictions the length of a single request is most of the error of its E2E, in every form; the delay
  inflicted, a sum over many, stays within some percent.
* **What then happens is slower, since others come.** The busier the cluster, the more: near saturation a delay keeps
  requests in the batch while newcomers' prompts are computed, so that what one request inflicts grows many times over.
  No form counts that; it is the same for all instances, so that it changes levels more than choices.
* **Behind a long queue in the engine (`paper-main`) the lengths' spread matters.** Mean lengths of skewed distributions
  overstate how long those ahead stay, so that `forecast` is nearer to what happens than `fast_forward` at mean lengths,
  which is nearest where lengths are known. `linear` knows nothing of room and so of waiting for it. What the preempted
  do to one another is in none but the run of the twin.
* **Time**: `fast_forward` keeps the run without the request until an event changes something, which none does here;
  after an event it makes two runs. `forecast` looks at the instance anew whenever time has passed, and then takes a
  fraction of a microsecond for each request that may go there (`cargo bench -p irouter-bench --bench impact`).
* **Placement by impact buys the mean with the tail.** It sends requests where they do the least harm, which leaves some
  instances fuller than others, at the cost of P99 and TTFT. `forecast`, the default of `least_impact`, is best or near
  best in the mean everywhere, and the only one ahead in all three figures of `paper-main` by more than two percent.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Effect:
    """What a dispatch did, in seconds from it on."""

    ttft_s: float
    e2e_s: float
    inflicted_s: float


def replay(run: Simulation, rows: NDArray[np.int64]) -> Simulation:
    """One instance, with these requests of a run in order of dispatch, each at the time at which it was sent."""
    settings = run.experiment.settings
    same: dict[str, Any] = {name: settings[name] for name in ("profile", "kv_blocks") if name in settings}
    trace = Trace(
        name="replay",
        format="columns",
        arrival_s=run["dispatched_s"][rows],
        input_tokens=run["input_tokens"][rows].astype(np.int64),
        output_tokens=run["output_tokens"][rows].astype(np.int64),
    )
    return irouter.simulate(trace=trace, policy="round_robin", instances=1, predictor="none", **same)


def effects(run: Simulation, row: int) -> tuple[Effect, Effect]:
    """What the dispatch of a row did, were nobody to come later, and with those who came."""
    at, ends = run["dispatched_s"][row], run["finished_s"]
    order = np.argsort(run["dispatched_s"], kind="stable")
    here = order[run["instance"][order] == run["instance"][row]]
    before = here[: int(np.flatnonzero(here == row)[0])]
    residents = ends[before] > at
    until = max(ends[row], ends[before].max(initial=at))
    later = here[(run["dispatched_s"][here] <= until) & (here != row)]

    with_it, alone, then = replay(run, np.append(before, row)), 0.0, 0.0
    if residents.any():
        without = replay(run, before)["finished_s"]
        alone = float(np.sum((with_it["finished_s"][:-1] - without)[residents]))
        without = replay(run, later)["finished_s"][: len(before)]
        then = float(np.sum((ends[before] - without)[residents]))
    return (
        Effect(with_it["first_token_s"][-1] - at, with_it["finished_s"][-1] - at, alone),
        Effect(run["first_token_s"][row] - at, ends[row] - at, then),
    )


def error(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> str:
    """Bias and mean absolute error as shares of the mean."""
    mean = actual.mean()
    return f"{(expected.mean() - mean) / mean:+.1%} / {np.abs(expected - actual).mean() / mean:.1%}"


def error_rows() -> Iterator[str]:
    """Rows of Markdown, one per case, predictor and form."""
    names = {"TTFT": "ttft_s", "E2E": "e2e_s", "inflicted": "inflicted_s"}
    yield f"| case | predictor | form | {' | '.join(f'{title} alone | then' for title in names)} |"
    yield "|---|---|---|" + "---|---|" * len(names)
    for case, settings in CASES.items():
        for predictor in PREDICTORS:
            found: list[tuple[Effect, Effect]] = []
            sample: NDArray[np.int64] = np.array([], dtype=np.int64)
            for form in FORMS:
                run = irouter.simulate(policy="least_work", predictor=predictor, impact=form, **settings)
                if not found:
                    sample = np.linspace(len(run) // 5, len(run) - 1, SAMPLE).astype(np.int64)
                    found = [effects(run, int(row)) for row in sample]
                cells = [
                    error(
                        run[f"expected_{name}"][sample],
                        np.array([getattr(each[when], name) for each in found]),
                    )
                    for name in names.values()
                    for when in (0, 1)
                ]
                yield f"| {case} | `{predictor}` | `{form}` | {' | '.join(cells)} |"


def seconds_per_estimate(form: Form) -> float:
    """CPU seconds of one estimate, the least of several rounds."""
    profile = json.dumps(profiles.load("llama-3.1-8b@a100"))
    router = Router([profile] * INSTANCES, "round_robin", impact=form)
    levels = np.array([0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98])
    now_s = 0.0

    def submit(number: int) -> int:
        prompt_tokens, longest = 100 + 377 * number % 3000, 500 + 131 * number % 1500
        quantiles = (longest * levels**2).tolist()
        return router.submit(
            number, now_s=now_s, prompt_tokens=prompt_tokens, max_tokens=4096, predicted_quantiles=quantiles
        )

    keys = [submit(number) for number in range(RESIDENTS * INSTANCES)]
    for _ in keys:
        router.decide(now_s)
    now_s = 5.0
    for number, key in enumerate(keys):
        router.progress(key, 16 * (1 + number % 3), now_s=now_s)
    own = submit(len(keys))
    rounds = []
    for _ in range(15):
        start = time.process_time()
        for _ in range(20):
            now_s += 1e-4
            router.impact(own, now_s=now_s)
        rounds.append((time.process_time() - start) / 20 / INSTANCES)
    return min(rounds)


def time_rows() -> Iterator[str]:
    """Rows of Markdown, one per form."""
    seconds = {form: seconds_per_estimate(form) for form in FORMS}
    yield "| form | time |"
    yield "|---|---|"
    for form, value in seconds.items():
        yield f"| `{form}` | {value / seconds['forecast']:.2g} |"


def gain_rows() -> Iterator[str]:
    """Rows of Markdown, one per case and form."""
    policies = [f'least_impact(form="{form}")' for form in FORMS]
    everybody = ["least_work", *policies]
    yield "| case | form | mean E2E | P99 E2E | mean TTFT |"
    yield "|---|---|---|---|---|"
    for case, settings in CASES.items():
        comparison = irouter.compare(policies=everybody, reference="least_work", seeds=SEEDS, **settings)
        for form, policy in zip(FORMS, policies, strict=True):
            ratios = comparison.policies[policy]["ratio"]
            cells = [interval(ratios[name]) for name in ("e2e_mean_s", "e2e_p99_s", "ttft_mean_s")]
            yield f"| {case} | `{form}` | {' | '.join(cells)} |"


def interval(ratio: Sequence[float]) -> str:
    """A ratio with its interval."""
    value, low, high = ratio
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Runs everything, prints the tables and writes the page."""
    page = []
    for head, rows in ((PAGE_HEAD, error_rows()), (PAGE_TIME, time_rows()), (PAGE_GAIN, gain_rows())):
        table = []
        for row in rows:
            print(row, flush=True)
            table.append(row)
        text = head.format(sample=SAMPLE, residents=RESIDENTS, instances=INSTANCES, seeds=SEEDS)
        page.append(text + "\n".join(table) + "\n")
    PAGE.write_text("".join(page) + PAGE_TAIL, encoding="utf-8")


if __name__ == "__main__":
    main()
