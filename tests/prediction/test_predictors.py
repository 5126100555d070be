"""Predictors: trained, written, loaded, judged, and what they say of bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
import pytest

from irouter import prediction
from irouter._core import IrouterError
from irouter._extras import MissingExtraError
from irouter.prediction import LENGTH_LEVELS
from irouter.prediction.bins import Bins
from irouter.prediction.encoder import EncoderPredictor
from irouter.prediction.encoder_inputs import EncoderInputs

BACKENDS = ("history", "tfidf")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_predictor_ranks_is_calibrated_and_says_so(folders: dict[str, Path], backend: str) -> None:
    card = prediction.load(folders[backend]).card
    assert card.metrics["kendall_tau"] > (0.5 if backend == "history" else 0.7)
    assert 0.7 < card.metrics["coverage_80"] < 0.9
    assert np.trace(card.confusion["counts"]) > 0.4 * np.sum(card.confusion["counts"])
    assert len(card.bucket_edges) == 4
    assert card.data["cut"] > 100
    assert sum(card.data["splits"].values()) == card.data["rows"] == 1500


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_twice_gives_the_same_predictions(
    log: prediction.RequestLog, folders: dict[str, Path], backend: str, tmp_path: Path
) -> None:
    again = prediction.train(log, tmp_path / "again", backend=backend)
    some = log.requests[:50]
    loaded = prediction.load(folders[backend])
    assert again.predict_requests(some).quantiles.tolist() == loaded.predict_requests(some).quantiles.tolist()
    # A batch says of each what a call of its own says.
    alone = loaded.predict([some.prompts[7]], tasks=[some.tasks[7]], apps=[some.apps[7]])
    assert alone.quantiles[0] == pytest.approx(loaded.predict_requests(some).quantiles[7], rel=1e-5)
    assert alone.edges == loaded.card.bucket_edges


def test_cut_lengths_taken_at_their_word_would_cost_the_tail(log: prediction.RequestLog) -> None:
    long = log.rows(np.flatnonzero(np.array(log.requests.tasks) == "writing"))
    honest = prediction.HistoryPredictor.from_log(long)
    naive = prediction.HistoryPredictor.from_log(
        prediction.RequestLog(
            long.name, long.requests, long.output_tokens, np.zeros(len(long), bool), long.groups, long.split
        )
    )
    request = {"prompts": ["Please essay part 1 " + "with care " * 25], "apps": ["app of writing"]}
    # A quarter of the requests may produce 400 tokens, where most of this kind produce more.
    fifth = LENGTH_LEVELS.index(0.2)
    told = [predictor.predict(**request).quantiles[0, fifth] for predictor in (honest, naive)]
    assert told[1] == pytest.approx(400, abs=60)
    assert told[0] > 1.2 * told[1]


def test_history_learns_on_line_and_tells_applications_apart() -> None:
    predictor = prediction.HistoryPredictor()
    assert isinstance(predictor, prediction.LearningPredictor)
    for number in range(200):
        predictor.observe("Hello there", 10 + number % 3, app="short")
        predictor.observe("Hello there", 500 + number % 9, app="long")
    told = predictor.predict(["Hello there"] * 3, apps=["short", "long", None])
    assert told.median[0] < 13
    assert told.median[1] > 490
    assert 13 < told.expected[2] < 490
    # A task stands in for an application without a name.
    for _ in range(64):
        predictor.observe("Hello there", 77, task="code")
    assert predictor.predict(["Hello there"], tasks=["code"]).median[0] == pytest.approx(77, abs=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["fine", ""], "prompt 1 is empty, expected a text"),
        ([" \n"], "prompt 0 is empty"),
        (["x" * 1_000_000], "prompt 0 has 1,000,000 bytes, expected at most 999,999"),
        (["é" * 500_000], "prompt 0 has 1,000,000 bytes"),
        (["ab\udcff"], r"prompt 0 has '\\udcff' at character 2, expected text that can be written as UTF-8"),
        ([b"\xff\xfe"], r"prompt 0 is b'.xff.xfe', expected a text"),
        ([None], "prompt 0 is None, expected a text"),
        ("one text", "`prompts` is one text, expected a list of texts"),
    ],
)
def test_bad_prompts_are_named(
    folders: dict[str, Path], backend: str, prompts: list[str], message: str
) -> None:
    with pytest.raises(IrouterError, match=message):
        prediction.load(folders[backend]).predict(prompts)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_long_prompt_and_strange_ones_are_read(folders: dict[str, Path], backend: str) -> None:
    prompts = ["word " * 199_000, "日本語の文章です。", "🙂", "\x00\x01", "a"]
    told = prediction.load(folders[backend]).predict(prompts)
    assert np.isfinite(told.quantiles).all()
    assert (np.diff(told.quantiles, axis=1) >= 0).all()


def test_lists_of_another_length_are_refused() -> None:
    predictor = prediction.HistoryPredictor()
    with pytest.raises(IrouterError, match=r"`tasks` is 1 values, expected a list with one per prompt \(2\)"):
        predictor.predict(["a", "b"], tasks=["x"])
    with pytest.raises(IrouterError, match="`apps` is the text 'ab'"):
        predictor.predict(["a", "b"], apps="ab")
    with pytest.raises(IrouterError, match="`tasks` has '', expected names or None"):
        predictor.predict(["a"], tasks=[""])


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_prompts_are_no_predictions(folders: dict[str, Path], backend: str) -> None:
    told = prediction.load(folders[backend]).predict([])
    assert told.expected.shape == (0,)
    assert told.bucket_probabilities.shape == (0, 5)
    with prediction.PredictorService(prediction.load(folders[backend])) as service:
        assert len(service.predict([])) == 0


def test_a_log_that_teaches_nothing_is_refused(tmp_path: Path) -> None:
    def log(prompts: list[str], lengths: list[int]) -> prediction.RequestLog:
        path = tmp_path / "log.jsonl"
        split = ["train", "val", "test"] * (len(prompts) // 3)
        pl.DataFrame({"prompt": prompts, "output_tokens": lengths, "split": split}).write_ndjson(path)
        return prediction.read_log(path)

    alike = log([f"the same words {number}" for number in range(30)], [7] * 30)
    with pytest.raises(IrouterError, match="all lengths lie in one bin"):
        prediction.train(alike, tmp_path / "one", backend="tfidf")
    strange = log([f"word{number}" for number in range(30)], list(range(1, 31)))
    with pytest.raises(IrouterError, match="no word is in 2 prompts"):
        prediction.train(strange, tmp_path / "two", backend="tfidf")


def test_folders_that_are_not_what_was_written_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def changed(name: str, **content: object) -> Path:
        folder = tmp_path / name
        shutil.copytree(folders["tfidf"], folder)
        card = json.loads((folder / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps(card | content))
        return folder

    with pytest.raises(IrouterError, match=r"`format_version` is 2, expected 1: train it anew"):
        prediction.load(changed("newer", format_version=2))
    with pytest.raises(IrouterError, match="not the card of a predictor"):
        prediction.load(changed("other", kind="something"))
    with pytest.raises(IrouterError, match="unexpected keyword argument 'colour'"):
        prediction.load(changed("more", colour="red"))
    with pytest.raises(IrouterError, match="unknown back-end `tfid`; did you mean `tfidf`"):
        prediction.load(changed("backend", backend="tfid"))
    broken = changed("broken")
    (broken / "weights.npz").write_bytes(b"not an archive")
    with pytest.raises(IrouterError, match="changed since the predictor was written"):
        prediction.load(broken)
    (broken / "weights.npz").unlink()
    with pytest.raises(IrouterError, match=r"no file weights\.npz, which its card names"):
        prediction.load(broken)
    with pytest.raises(IrouterError, match=r"no predictor, expected a folder with card\.json"):
        prediction.load(tmp_path)


def test_an_archive_of_pickles_is_not_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(folders["tfidf"], folder)
    np.savez(folder / "weights.npz", idf=np.array([{"an": "object"}], dtype=object))
    prediction.read_card(folders["tfidf"]).write(folder)
    with pytest.raises(IrouterError, match="not the files of the predictor `tfidf`: ValueError"):
        prediction.load(folder)


def test_a_folder_with_files_is_not_overwritten(log: prediction.RequestLog, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(IrouterError, match="exists, expected an empty folder or none"):
        prediction.train(log, tmp_path, backend="history")
    with pytest.raises(IrouterError, match="unknown back-end `forest`"):
        prediction.train(log, tmp_path / "new", backend="forest")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_a_missing_extra_says_what_to_install(
    folders: dict[str, Path],
) -> None:
    program = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('sklearn', 'scipy', 'onnxruntime', 'tokenizers'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from irouter import prediction\n"
        f"print(len(prediction.load({str(folders['history'])!r}).predict(['works without'])))\n"
        f"prediction.load({str(folders['tfidf'])!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)  # noqa: S603
    assert done.stdout == "1\n"
    assert 'needs the package `sklearn`: run pip install "irouter-llm[predict]"' in done.stderr


def test_training_an_encoder_without_its_extra_says_what_to_install(
    log: prediction.RequestLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r'run pip install "irouter-llm\[train\]"'):
        prediction.train(log, tmp_path / "encoder", backend="encoder")
    assert not any(tmp_path.iterdir())


def test_running_an_encoder_without_its_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnxruntime", "tokenizers"):
        monkeypatch.setitem(sys.modules, package, None)
    install = r'run pip install "irouter-llm\[predict\]"'
    with pytest.raises(MissingExtraError, match=f"`tokenizers`: {install}"):
        EncoderInputs(tmp_path / "tokenizer.json", max_tokens=16)
    with pytest.raises(MissingExtraError, match=f"`onnxruntime`: {install}"):
        EncoderPredictor(tmp_path / "model.onnx", cast("EncoderInputs", None), Bins(np.arange(41.0)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"prompts": ["a"], "output_tokens": [1]}, "no column `prompt`; did you mean `prompts`"),
        ({"prompt": ["a"]}, "no column `output_tokens`; the file has prompt"),
        ({"prompt": ["a", " "], "output_tokens": [1, 1]}, "row 2: `prompt` is ' ', expected a text"),
        ({"prompt": ["a"], "output_tokens": [0]}, "row 1: `output_tokens` is 0, expected a whole number"),
        ({"prompt": ["a"], "output_tokens": [1.5]}, "row 1: `output_tokens` is 1.5"),
        ({"prompt": [7], "output_tokens": [1]}, "row 1: `prompt` is 7, expected a text"),
        (
            {"prompt": ["a"], "output_tokens": [1], "finish": ["eos"]},
            "row 1: `finish` is 'eos', expected `stop` or `length`",
        ),
        ({"prompt": ["a"], "output_tokens": [1], "split": ["dev"]}, "row 1: `split` is 'dev'"),
        ({"prompt": ["x" * 10**6], "output_tokens": [1]}, "row 1: `prompt` has 1,000,000 bytes"),
    ],
)
def test_bad_logs_are_named_by_row_and_column(
    rows: dict[str, list[object]], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame(rows).write_parquet(path)
    with pytest.raises(IrouterError, match=message):
        prediction.read_log(path)


def test_invalid_utf8_in_a_log_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"prompt,output_tokens\nab\xff\xfe,5\n")
    (tmp_path / "log.jsonl").write_bytes(b'{"prompt": "ab\xff\xfe", "output_tokens": 5}\n')
    for name in ("log.csv", "log.jsonl"):
        with pytest.raises(IrouterError, match=name):
            prediction.read_log(tmp_path / name)


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_a_log_without_a_byte_or_a_row_is_an_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    with pytest.raises(IrouterError, match=name.replace(".", r"\.")):
        prediction.read_log(path)
    (tmp_path / "log.csv").write_bytes(b"prompt,output_tokens\n")
    with pytest.raises(IrouterError, match="the log has no requests"):
        prediction.read_log(tmp_path / "log.csv")


def test_splits_never_part_a_group(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number}", "output_tokens": 1, "group": f"g{number % 40}"} for number in range(400)]
    path = tmp_path / "log.jsonl"
    pl.DataFrame(rows).write_ndjson(path)
    log = prediction.read_log(path)
    for group in set(log.groups):
        assert len(set(log.split[log.groups == group])) == 1
    assert set(log.split) == {"train", "val", "test"}
    with pytest.raises(IrouterError, match="log: no row is of the split holdout"):
        log.part("holdout")
