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

What a router is told of an output length is a distribution; a predictor says which. Each is named as on the command line
(`--predictor NAME`), and every table and page of a comparison prints its name with what it delivered beside what was
asked:

| predictor | what it tells the router |
|---|---|
| `none` | the population's distribution, the same for every request |
| `history` | the newest finished requests of the same application and prompt size, learned while the run goes on |
| `noisy:TAU` | the conditional distribution given a noisy view of the length whose rank correlation with it is TAU |
| `lognormal:SIGMA` | the true length times a log-normal error, with the error's own spread around it |
| `buckets:ACCURACY` | the paper's buckets (to 256, to 2,048, above), the right one with this probability, else a neighbour |
| `oracle` | the true length; never a default |

`noisy:0.45` is the default: 0.45 is what a fine-tuned encoder reaches on real chats.

## Delivered quality

Measured on what the router was told at the arrival of each measured request in the first window, under `round_robin`.
**tau-b** is Kendall's rank correlation of expected and true lengths (none where all expectations are alike); **80 %** is
the share of true lengths between the 10 % and 90 % quantiles of their predictions, 80 % when calibrated. Where a
name asks for a rank correlation it stands beside. `python tools/predictor_quality.py` writes this page.

"""

PAGE_TAIL = """
* The few lengths of a small window move both figures: with 1,000 requests the standard error of tau-b is about 0.02.
* `history` begins with a wide prior and knows only what has finished, which are the short ones first; both count here.
  It ranks only where applications or prompt sizes tell lengths apart: in `paper-main`, whose tasks differ, not where
  inputs and outputs are drawn independently.
* `lognormal` and `oracle` cover more where lengths are cut at a maximum or told exactly; `buckets` ranks only as far as
  lengths spread over its buckets.
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
