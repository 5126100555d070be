"""Writes docs/conformance.md: decisions of other routers' packages beside those of our rules, on the same events.

    make conformance

Every package runs in a virtual environment of its own; `make peers` creates them.
"""

import sys
import time
from pathlib import Path

from conformance.cases import CASES, DRAWS, REQUESTS, Case, Result
from conformance.comparison import Agreement

PAGE = Path(__file__).resolve().parents[1] / "docs" / "conformance.md"

HEAD = f"""# Conformance

Rules of other routers are written again in `irouter` from what is published. Here each is given the same events as the real
package, and the decisions are compared. Written by `make conformance`; the same cases are tests (`make test-real`, and a short run
of each package in `make test`). The bar is 99 % equal or tied.

* A script of events (requests that come, start, produce and end; where a rule reads them, engine loads) goes to the package. Each
  request is then placed in our router where the package placed it, after our rule was asked where it would have gone, so that both
  sides see the same state at every decision.
* *Tied* means that more than one instance was best and that the two choices lie in the same set.
* Libraries are called in a process of their own. Gateways are run as they ship, in front of engines that answer their polls and
  hold every request until the script ends it; the engine that a request reaches is the decision. Loads are those that the gateway
  read by polling, at the times when it did.
* Rules that draw at random are compared at one state of the cluster by a chi-square test on {DRAWS:,} draws of each side, at 1 %.

| package | rule | our policy | events | equal | tied | different | equal or tied |
|---|---|---|---:|---:|---:|---:|---:|
"""

DRAWN = """
| package | rule | our policy | draws of each instance, theirs | ours | p |
|---|---|---|---|---|---:|
"""

TAIL = """
Differences:

* Prefix affinity and `cache_aware` match characters, our rules full blocks of 16 tokens (in these scripts one character is one
  token). Where prompts end within a block, a match rate near the threshold or two trees of nearly one size can fall on either
  side; where they end with a block, nothing differs, as the rows of Ray show. Ray compares tree sizes at every miss, so that it
  shows most there.
* Dynamo counts a prompt that is cached to its last token as free; ours computes at least one token, as engines do. It shows where
  a prompt of whole blocks is sent again.
* `round_robin` of SMG may start at another instance than ours: then the first decision differs, and none after it.

What the packages do and their descriptions do not say, found here and followed by our rules:

* `cache_aware` of `sglang-router` and `vllm-router` sends a miss to the fewest requests, not to the smallest tree.
* `least_load` of SMG counts each running request, and each request in flight that a report cannot have seen, as a mean prompt; a
  worker without a report costs as much as the cheapest with one, plus its own requests.
* `cache_aware` of SMG sends a miss to the lowest `least_load` score, takes the lowest score among equal matches, and caps the
  margin of its load gate at two standard deviations of the mean load.
* `power_of_two` of `vllm-router` polls `/get_load`, which vLLM does not serve: before a real vLLM it goes by its own counts.

Not compared:

* `lmetric`: a proposal to Dynamo (ai-dynamo/dynamo pull request 11028) that its package does not contain.
* The hash of the text in SMG's `prefix_hash`: its gateway did not hash the text of completions, so that a key was given by header.
* Warm-up and overload protection of SMG, circuit breakers and retries: they act around the rules. Warm-up, breakers and retries
  were off; reported loads stayed below the overload limits.
* llm-d, AIBrix, Llumnix, vLLM's data-parallel balancer and the production stack have no package that can be called here.
"""


def agreement_row(result: Result, outcome: Agreement) -> str:
    """A row of the first table."""
    case = result.case
    share = f"{outcome.share:.1%}" + ("" if outcome.holds else " **below the bar**")
    return (
        f"| {result.version} | {label(case)} | `{case.policy}` | {result.events:,} | {outcome.equal:,} | {outcome.tied:,} "
        f"| {outcome.different:,} | {share} |"
    )


def label(case: Case) -> str:
    """The rule, and how it was run."""
    return f"{case.rule} ({case.note})" if case.note else case.rule


def main() -> int:
    """Runs all cases and writes the page; 1 when one misses its bar."""
    agreements, distributions = [], []
    failures = 0
    for case in CASES:
        began = time.monotonic()
        result = case.run(DRAWS if case.is_random else REQUESTS)
        outcome = result.outcome
        if isinstance(outcome, Agreement):
            agreements.append(agreement_row(result, outcome))
        else:
            distributions.append(
                f"| {result.version} | {label(case)} | `{case.policy}` | {list(outcome.theirs)} | {list(outcome.ours)} "
                f"| {outcome.p_value:.2f} |"
            )
        failures += not outcome.holds
        verdict = "holds" if outcome.holds else "FAILS"
        print(f"{verdict}  {case.name}: {outcome} in {time.monotonic() - began:.1f} s", flush=True)
    lines = ["\n".join(agreements), "\n", DRAWN, "\n".join(distributions), "\n"]
    PAGE.write_text(HEAD + "".join(lines) + TAIL)
    print(f"wrote {PAGE.name}; {failures} of {len(CASES)} miss the bar")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
