"""Trains every kind of predictor on every set of `predictor_sets.py`, prints how good each is, and writes the page.

python tools/predictor_table.py --sets FOLDER --work FOLDER --encoder FOLDER_OR_NAME

What is in the folder of work from an earlier run is not trained again. The encoder needs the extra `[train]`; without
`--encoder` it is left out, but for those that are there.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from irouter import _core, prediction
from irouter.prediction.encoder_training import EncoderOptions
from irouter.prediction.metrics import quantile_edges
from irouter.prediction.requests import Requests, estimated_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from irouter.prediction import Outcomes, RequestLog

PAGE: Final = Path(__file__).parents[1] / "docs" / "learned-predictors.md"
SETS: Final = {
    "smollm2": "SmolLM2-135M on vLLM, lengths as served",
    "written": "answers that ChatGPT and GPT-4 wrote",
    "sharegpt": "first turns of ShareGPT",
}
COLUMNS: Final = {
    "kendall_tau": "tau-b",
    "mae_tokens": "error, tokens",
    "pinball_loss": "pinball",
    "coverage_80": "80 %",
    "accuracy_5": "five buckets",
    "accuracy_paper": "paper's buckets",
    "recall_heavy": "heavy found",
}
_SHARES: Final = ("coverage_80", "accuracy_5", "accuracy_paper", "recall_heavy")
# A group of fewer rows says nothing of its lengths.
_FEWEST: Final = 20


def by_key(log: RequestLog, key: Callable[[Requests, int], Hashable]) -> Outcomes:
    """The baseline that tells each test row the lengths of the training rows with the same key."""
    train, test = log.part("train", "val"), log.part("test")
    levels = np.asarray(prediction.LENGTH_LEVELS)
    keys = [key(train.requests, row) for row in range(len(train))]
    found = {}
    for name in {*keys}:
        rows = np.flatnonzero([other == name for other in keys])
        if len(rows) >= _FEWEST:
            found[name] = _core.censored_quantiles(train.output_tokens[rows], train.cut[rows], levels)
    everyone = _core.censored_quantiles(train.output_tokens, train.cut, levels)
    quantiles = np.stack([found.get(key(test.requests, row), everyone) for row in range(len(test))])
    lengths = prediction.LengthDistribution(quantiles)
    edges = quantile_edges(train.output_tokens, train.cut)
    return prediction.Outcomes(lengths, test.output_tokens, test.cut, edges)


def without_tasks(log: RequestLog) -> RequestLog:
    """The log of somebody who knows no tasks."""
    requests = Requests(log.requests.prompts, (None,) * len(log), log.requests.apps)
    return dataclasses.replace(log, requests=requests)


def rows_of(
    name: str, log: RequestLog, work: Path, options: EncoderOptions | None
) -> Iterator[tuple[str, Outcomes]]:
    """Every predictor with what it said of the test rows."""
    yield "majority", by_key(log, lambda _requests, _row: 0)
    if log.is_task_known:
        yield "task alone", by_key(log, lambda requests, row: requests.tasks[row])
    yield (
        "prompt length alone",
        by_key(log, lambda requests, row: estimated_tokens(requests.prompts[row]).bit_length()),
    )
    logs = {"": log, ", no task": without_tasks(log)} if log.is_task_known else {"": log}
    for backend in ("history", "tfidf", "encoder"):
        for suffix, known in logs.items():
            folder = work / f"{name}-{backend}{suffix.replace(', ', '-').replace(' ', '-')}"
            if not folder.exists():
                if backend == "encoder" and (options is None or suffix):
                    continue
                prediction.train(known, folder, backend=backend, encoder=options)
            trained = prediction.load(folder)
            training = trained.card.options.get("training")
            how = f" (epochs {training['epochs']}, tokens {training['max_tokens']})" if training else ""
            yield f"`{backend}`{suffix}{how}", prediction.outcomes(trained, known.part("test"))


def table(found: Sequence[tuple[str, Outcomes]], groups: Any) -> Iterator[str]:
    """Rows of Markdown, each figure with its interval."""
    yield f"| predictor | {' | '.join(COLUMNS.values())} |"
    yield f"|---|{'---|' * len(COLUMNS)}"
    for name, outcomes in found:
        values = outcomes.metrics().to_data()
        intervals = prediction.group_bootstrap(outcomes, groups)
        cells = [_cell(key, values[key], intervals[key]) for key in COLUMNS]
        yield f"| {name} | {' | '.join(cells)} |"


def _cell(key: str, value: float | None, interval: tuple[float, float]) -> str:
    if value is None:
        return "-"
    low, high = interval
    if key in _SHARES:
        return f"{value:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
    form = ".3f" if key == "kendall_tau" else ".1f"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def main() -> None:
    """Trains, judges, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", type=Path, required=True, help="what predictor_sets.py wrote")
    parser.add_argument("--work", type=Path, required=True, help="where predictors are kept")
    parser.add_argument("--encoder", help="encoder to fine-tune: a name, or a folder")
    parser.add_argument("--epochs", type=int, default=EncoderOptions().epochs)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    options = None
    if arguments.encoder is not None:
        options = EncoderOptions(model=arguments.encoder, epochs=arguments.epochs)
    parts = []
    for name, title in SETS.items():
        path = arguments.sets / f"{name}.parquet"
        if not path.exists():
            continue
        log = prediction.read_log(path)
        test = log.part("test")
        found = list(rows_of(name, log, arguments.work, options))
        head = f"### {title}\n\n{len(log):,} rows, {len(test):,} to judge by, {int(log.cut.sum()):,} cut by a limit."
        parts.append("\n".join([f"{head}\n", *table(found, test.groups)]))
        print(parts[-1], flush=True)
    text = PAGE.read_text(encoding="utf-8")
    before, marker, rest = text.partition("<!-- table -->\n")
    _, end, after = rest.partition("<!-- end of table -->\n")
    PAGE.write_text(before + marker + "\n" + "\n\n".join(parts) + "\n\n" + end + after, encoding="utf-8")


if __name__ == "__main__":
    main()
