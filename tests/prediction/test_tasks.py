"""The classifier of tasks: what it names, what a predictor does with it, and what its card and page say."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from irouter import prediction
from irouter._core import IrouterError
from irouter.cli import main
from irouter.prediction.page import page
from irouter.prediction.requests import Requests


@pytest.fixture(scope="module")
def folder(log_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the log without its applications, which would stand for the tasks."""
    root = tmp_path_factory.mktemp("tasks")
    pl.read_parquet(log_file).drop("app").write_parquet(root / "requests.parquet")
    arguments = ["--backend", "history", "--tasks", "predict", "--out", str(root / "lengths")]
    with pytest.raises(SystemExit) as ended:
        main(["predictor", "train", "--data", str(root / "requests.parquet"), *arguments])
    assert ended.value.code == 0
    return root / "lengths"


@pytest.fixture(scope="module")
def unnamed(log: prediction.RequestLog) -> prediction.RequestLog:
    """The log without tasks and applications."""
    return log.with_requests(Requests.check(log.requests.prompts, None, None))


def test_tasks_are_found_and_the_card_says_how_well(folder: Path, log: prediction.RequestLog) -> None:
    card = prediction.load(folder).card
    assert card.tasks["names"] == ["code", "translation", "writing"]
    assert card.tasks["accuracy"] > 0.99
    assert card.tasks["majority"] < 0.5
    judged = log.part("test")
    assert card.tasks["rows"] == len(judged) == sum(map(sum, card.tasks["counts"]))
    classifier = prediction.TaskClassifier.train(log.part("train"))
    assert classifier.tasks_of(["Please implement part 7", "an essay with care"]) == ["code", "writing"]
    assert classifier.tasks_of([]) == []


def test_a_predictor_with_the_classifier_needs_no_tasks(
    folder: Path, folders: dict[str, Path], unnamed: prediction.RequestLog
) -> None:
    rows = unnamed.part("test")
    found = prediction.outcomes(prediction.load(folder), rows).metrics()
    without = prediction.outcomes(prediction.load(folders["history"]), rows).metrics()
    assert found.kendall_tau is not None
    assert found.kendall_tau > (without.kendall_tau or 0.0) + 0.2
    # A task that is named is taken at its word.
    told = prediction.load(folder).predict(["Please implement part 7"] * 2, tasks=["writing", None])
    assert told.median[0] > 1.5 * told.median[1]


def test_an_earlier_classifier_names_the_tasks_of_a_log_without_any(
    folder: Path, unnamed: prediction.RequestLog, tmp_path: Path
) -> None:
    again = prediction.train(unnamed, tmp_path / "again", backend="tfidf", tasks=folder)
    assert again.card.tasks == prediction.read_card(folder).tasks
    assert again.card.metrics["kendall_tau"] > 0.7
    with pytest.raises(
        IrouterError, match="the tasks of the rows to train on are none, expected at least two"
    ):
        prediction.train(unnamed, tmp_path / "none", backend="tfidf", tasks="predict")


def test_the_page_shows_which_tasks_are_taken_for_which(folder: Path, log: prediction.RequestLog) -> None:
    trained = prediction.load(folder)
    outcomes = prediction.outcomes(trained, log.part("test"))
    html = page(trained.card, log.part("test"), outcomes, outcomes.metrics())
    assert "Tasks told apart" in html
    assert (
        f"right for {trained.card.tasks['accuracy']:.1%} of {trained.card.tasks['rows']:,} requests" in html
    )


def test_what_is_no_classifier_is_named(
    folder: Path, folders: dict[str, Path], log: prediction.RequestLog, tmp_path: Path
) -> None:
    with pytest.raises(IrouterError, match="tasks `predcit`, expected `log`, `predict` or the folder"):
        prediction.train(log, tmp_path / "new", backend="history", tasks="predcit")
    with pytest.raises(IrouterError, match="no classifier of tasks, expected a predictor that was trained"):
        prediction.train(log, tmp_path / "new", backend="history", tasks=folders["history"])
    path = tmp_path / "one.jsonl"
    rows = [{"prompt": f"the same words {n}", "output_tokens": 1 + n, "task": "code"} for n in range(90)]
    pl.DataFrame(rows).write_ndjson(path)
    with pytest.raises(IrouterError, match="the tasks of the rows to train on are only `code`"):
        prediction.train(prediction.read_log(path), tmp_path / "new", backend="history", tasks="predict")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    card = json.loads((other / "card.json").read_text())
    card["tasks"]["names"] = ["code"]
    (other / "card.json").write_text(json.dumps(card))
    with pytest.raises(IrouterError, match="weights for 3 tasks, expected 1 as its card names"):
        prediction.load(other)
