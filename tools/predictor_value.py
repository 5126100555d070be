"""Prints what predictors are worth: latency of one policy by predictor, with measured confusion matrices.

python tools/predictor_value.py --matrix tfidf=FOLDER --matrix encoder=FOLDER

Each FOLDER is a trained predictor's, whose confusion matrix stands for it. The share of the oracle's gain is that of
the mean E2E against no prediction.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import irouter

if TYPE_CHECKING:
    from collections.abc import Mapping

POLICY = "ordered_hold"


def figures(scenario: str, predictor: str, seeds: int) -> tuple[Mapping[str, Any], float | None]:
    """Figures of the policy, and the rank correlation that was delivered."""
    found = irouter.compare(scenario, predictor=predictor, policies=[POLICY], seeds=seeds).report()
    return found["policies"][POLICY], found["predictor_quality"]["tau_b"]


def main() -> None:
    """Runs the scenario with each predictor and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scenario", default="paper-main")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--matrix", action="append", default=[], metavar="NAME=FOLDER")
    arguments = parser.parse_args()
    predictors = {"none": "none", "history": "history"}
    predictors |= {
        name: f"confusion:{folder}" for name, _, folder in (m.partition("=") for m in arguments.matrix)
    }
    predictors["oracle"] = "oracle"
    found = {
        name: figures(arguments.scenario, predictor, arguments.seeds)
        for name, predictor in predictors.items()
    }
    worst, best = found["none"][0]["e2e_mean_s"], found["oracle"][0]["e2e_mean_s"]
    print(f"`{arguments.scenario}`, `{POLICY}`, {arguments.seeds} seeds\n")
    print("| predictor | tau-b | mean E2E, s | P99 E2E, s | share of the oracle's gain |")
    print("|---|---|---|---|---|")
    for name, (values, tau) in found.items():
        share = (worst - values["e2e_mean_s"]) / (worst - best)
        told = "-" if tau is None else f"{tau:.2f}"
        print(
            f"| {name} | {told} | {values['e2e_mean_s']:.2f} | {values['e2e_p99_s']:.2f} | {share:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
