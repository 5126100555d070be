"""Trains every kind of predictor on every set of `predictor_sets.py`, prints how good each is, and writes the page.

python tools/predictor_table.py --sets FOLDER --work FOLDER --encoder FOLDER_OR_NAME

What is in the folder of work from an earlier run is not trained again. Needs the extra `[train]`; without `--encoder`
encoders are left out, but for those that are there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from irouter import prediction
from irouter.prediction.encoder_training import EncoderOptions
from irouter.prediction.requests import estimated_tokens
from predictor_baselines import by_key, frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
# How a predictor learns of tasks: what `train` is told, whether it sees the log's, whether it is asked with them.
TASKS: Final = {
    "": ("log", True, True),
    ", no task": ("log", False, False),
    ", task found": ("predict", True, False),
}


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
    for backend in ("history", "tfidf", "encoder"):
        states = work / f"{name}-frozen.npz"
        if backend == "encoder" and (options is not None or states.exists()):
            yield "frozen encoder", frozen(log, options, states)
        for suffix, (tasks, is_seen, is_asked) in TASKS.items():
            if suffix and not log.is_task_known:
                continue
            folder = work / f"{name}-{backend}{suffix.replace(', ', '-').replace(' ', '-')}"
            if not folder.exists():
                if backend == "encoder" and (options is None or tasks == "predict"):
                    continue
                seen = log if is_seen else log.without_tasks()
                prediction.train(seen, folder, backend=backend, tasks=tasks, encoder=options)
            trained = prediction.load(folder)
            asked = (log if is_asked else log.without_tasks()).part("test")
            yield f"`{backend}`{suffix}{_how(trained)}", prediction.outcomes(trained, asked)


def _how(trained: prediction.TrainedPredictor) -> str:
    """How an encoder was trained, or how often a classifier of tasks is right."""
    training, tasks = trained.card.options.get("training"), trained.card.tasks
    if training:
        return f" (epochs {training['epochs']}, tokens {training['max_tokens']})"
    return f" ({tasks['accuracy']:.1%} right)" if tasks else ""


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
    parser.add_argument("--bfloat16", action="store_true", help="fine-tune in 16 bits")
    parser.add_argument("--threads", type=int, default=0, help="threads of fine-tuning")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    options = None
    if arguments.encoder is not None:
        options = EncoderOptions(
            model=arguments.encoder,
            epochs=arguments.epochs,
            bfloat16=arguments.bfloat16,
            threads=arguments.threads,
        )
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
