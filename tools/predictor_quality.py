"""Prints how good each predictor is as the simulator measures it, and writes docs/predictors.md with the same table.

python tools/predictor_quality.py
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import irouter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PAGE = Path(__file__).parents[1] / "docs" / "predictors.md"
SCENARIOS = ("conversation", "paper-main", "chat-closed")
PREDICTORS = (
    "none",
    "history",
    "noisy:0.2",
    "noisy:0.45",
    "noisy:0.7",
    "lognormal:0.3",
    "lognormal:0.7",
    "buckets:0.6",
    "buckets:0.79",
    "oracle",
)

PAGE_HEAD = """\
# Predictors

What a router is told of an output length is a distribution, and a predictor says which. Each has a name
(`--predictor NAME`), which stands in every table with what it delivered beside what was asked:

| predictor | what it tells the router |
|---|---|
| `none` | the population's distribution, the same for every request |
| `history` | the newest finished requests of the same application and prompt size, learned while the run goes on |
| `noisy:TAU` | what follows from a noisy view of the length that has a rank correlation of TAU with it |
| `lognormal:SIGMA` | the true length times a log-normal error, with the error's own spread around it |
| `buckets:ACCURACY` | one of the paper's buckets (from 0, 256 and 2,048), the right one so often, else a neighbour |
| `confusion:FILE` | a bucket, by the confusion matrix that a trained predictor was measured to have |
| `model:FOLDER` | what a predictor trained on a log says of a trace's prompts ([how to](learned-predictors.md)) |
| `oracle` | the true length; never a default |

`noisy:0.45` is the default: 0.45 is what a fine-tuned encoder reaches on real chats.

## Delivered quality

Measured on what the router was told at the arrival of each measured request in the first window, under `round_robin`.
**tau-b** is Kendall's rank correlation of expected and true lengths, none where all expectations are alike; **80 %** is
the share of true lengths between the 10 % and 90 % quantiles of their predictions, which is 80 % for a calibrated
predictor. `python tools/predictor_quality.py` writes this page.

"""

PAGE_TAIL = """
## Reading

* **`noisy` delivers what it is asked for**, in rank correlation and in coverage.
* **`history` ranks only where it can tell requests apart**: by task in `paper-main`; not in `conversation` and
  `chat-closed`, which have one application, and whose outputs are drawn independently of their prompts. It begins with
  a wide prior and learns from what has finished, the short ones first, which costs it coverage in the overload of
  `paper-main`; all of that counts here, as it does for a policy.
* **`buckets` ranks only across its edges**, so less in `paper-main`, where most outputs lie in the first bucket.
"""


def delivered() -> dict[str, dict[str, Mapping[str, Any]]]:
    """The figures of each predictor in each scenario."""
    figures: dict[str, dict[str, Mapping[str, Any]]] = {}
    for predictor in PREDICTORS:
        for scenario in SCENARIOS:
            comparison = irouter.compare(scenario, predictor=predictor, policies=["round_robin"], seeds=1)
            figures.setdefault(predictor, {})[scenario] = comparison.report()["predictor_quality"]
    return figures


def table(figures: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Rows of Markdown, one per predictor."""
    yield f"| predictor | asked tau-b | {' | '.join(f'`{name}`: tau-b | 80 %' for name in SCENARIOS)} |"
    yield "|---|---|" + "---|---|" * len(SCENARIOS)
    for predictor, by_scenario in figures.items():
        asked = by_scenario[SCENARIOS[0]]["asked_tau_b"]
        cells = [f"`{predictor}`", "" if asked is None else f"{asked:.2f}"]
        for scenario in SCENARIOS:
            quality = by_scenario[scenario]
            cells.append("-" if quality["tau_b"] is None else f"{quality['tau_b']:.3f}")
            cells.append(f"{quality['coverage_80']:.1%}")
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Runs the scenarios, prints the table and writes the page."""
    rows = "\n".join(table(delivered()))
    print(rows)
    PAGE.write_text(f"{PAGE_HEAD}{rows}\n{PAGE_TAIL}", encoding="utf-8")


if __name__ == "__main__":
    main()
