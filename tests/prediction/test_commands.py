"""Commands of predictors, the pages and files that they write, and predictors in the simulator."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import irouter
from irouter import prediction
from irouter._core import IrouterError
from irouter.cli import main


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    code = ended.value.code
    return code if isinstance(code, int) else 0


class Engine(BaseHTTPRequestHandler):
    """Answers with as many tokens as the prompt has characters, up to the limit."""

    asked: list[str]
    fails_after: int
    refused: str | None
    hangs: threading.Event | None

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        type(self).asked.append(prompt)
        if len(type(self).asked) > type(self).fails_after:
            self.send_error(503, "too many")
            return
        if prompt == self.refused:
            self.send_error(400, "too long")
            return
        if self.hangs is not None and len(prompt) == 1:
            self.hangs.wait()
            return
        tokens = min(len(prompt), body["max_tokens"])
        answer = {
            "choices": [{"finish_reason": "length" if len(prompt) > tokens else "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": tokens},
        }
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@contextmanager
def engine(
    *, fails_after: int = 10**9, refused: str | None = None, hangs: threading.Event | None = None
) -> Iterator[tuple[str, type[Engine]]]:
    fresh = {"asked": [], "fails_after": fails_after, "refused": refused, "hangs": hangs}
    handler = type("Fresh", (Engine,), fresh)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_train_then_eval_writes_figures_a_page_and_a_matrix(
    log_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, page = tmp_path / "lengths", tmp_path / "page.html"
    assert run("predictor", "train", "--data", log_file, "--backend", "tfidf", "--out", folder) == 0
    assert "tau-b" in capsys.readouterr().out
    figures = tmp_path / "figures.json"
    arguments = ("predictor", "eval", folder, "--data", log_file, "--split", "test")
    assert run(*arguments, "--json", figures, "--html", page) == 0
    found = json.loads(figures.read_text())
    keys = {"kendall_tau", "mae_tokens", "pinball_loss", "coverage_80", "accuracy_5", "rows"}
    assert keys <= found.keys()
    # The same rows as when it was trained give the same figures.
    card = prediction.load(folder).card
    assert {key: found[key] for key in card.metrics} == card.metrics
    assert found["confusion"] == card.confusion
    html = page.read_text()
    for part in (
        "Predicted and actual lengths",
        "Calibration",
        "Confusion by task",
        "translation",
        "writing",
    ):
        assert part in html
    assert "<script src" not in html
    assert "<link" not in html
    capsys.readouterr()
    assert run(*arguments, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out) == found


def test_bench_times_every_size_and_batch(folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "timings.json"
    options = ("--tokens", "8,16", "--batches", "1,4", "--repeats", "3", "--json", file)
    assert run("predictor", "bench", folders["tfidf"], *options) == 0
    timings = json.loads(file.read_text())
    assert [(timing["tokens"], timing["batch"]) for timing in timings] == [(8, 1), (8, 4), (16, 1), (16, 4)]
    assert all(0 < timing["median_ms"] <= timing["p99_ms"] for timing in timings)


@pytest.fixture
def places(log_file: Path, folders: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    files = {
        "EMPTY": b"",
        "COLUMNS": b"prompts,output_tokens\na,1\n",
        "BYTES": b"prompt,output_tokens\nab\xff\xfe,5\n",
        "LONG": b"prompt,output_tokens\n" + b"x" * 1_000_000 + b",5\n",
    }
    for name, content in files.items():
        (tmp_path / f"{name}.csv").write_bytes(content)
    older = tmp_path / "older"
    shutil.copytree(folders["tfidf"], older)
    card = json.loads((older / "card.json").read_text())
    (older / "card.json").write_text(json.dumps(card | {"format_version": 0}))
    new = {"NEW": tmp_path / "new", "NEW.jsonl": tmp_path / "new.jsonl"}
    bad = {name: tmp_path / f"{name}.csv" for name in files}
    return {"LOG": log_file, "FOLDER": folders["tfidf"], "OLDER": older, **new, **bad}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--data", "LOG", "--backend", "forest", "--out", "NEW"), "unknown back-end `forest`"),
        (("eval", "OLDER", "--data", "LOG"), "`format_version` is 0, expected 1: train it anew"),
        (("bench", "OLDER"), "`format_version` is 0, expected 1"),
        (("train", "--data", "EMPTY", "--out", "NEW"), "EMPTY.csv"),
        (("train", "--data", "COLUMNS", "--out", "NEW"), "no column `prompt`; did you mean `prompts`"),
        (("train", "--data", "BYTES", "--out", "NEW"), "BYTES.csv"),
        (
            ("eval", "FOLDER", "--data", "LONG"),
            "row 1: `prompt` has 1,000,000 bytes, expected at most 999,999",
        ),
        (("train", "--data", "LOG", "--tasks", "guess", "--out", "NEW"), "tasks `guess`, expected `log`"),
        (("eval", "NEW", "--data", "LOG"), "no predictor, expected a folder with card.json"),
        (("eval", "FOLDER", "--data", "NEW"), "expected a file that ends in"),
        (("eval", "FOLDER", "--data", "LOG", "--split", "dev"), "no row is of the split dev"),
        (("eval", "FOLDER", "--data", "LOG", "--precision", "int8"), "is no encoder"),
        (("export", "FOLDER", "--out", "NEW"), "back-end `tfidf`, expected an `encoder`"),
        (("bench", "FOLDER", "--tokens", "8,x"), "--tokens 8,x: expected whole numbers with commas"),
        (
            ("label", "--prompts", "LOG", "--url", "ftp://x", "--model", "m", "--out", "NEW.jsonl"),
            "endpoint 'ftp://x', expected a URL",
        ),
        (
            ("label", "--prompts", "LOG", "--url", "http://127.0.0.1:9/v1", "--model", "m", "--out", "NEW"),
            "expected a file that ends in .jsonl",
        ),
    ],
)
def test_bad_input_ends_with_one_line(
    arguments: tuple[str, ...],
    message: str,
    places: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("predictor", *(places.get(argument, argument) for argument in arguments)) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1


def test_label_records_real_lengths_and_goes_on_where_it_was_broken_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out_file = tmp_path / "prompts.jsonl", tmp_path / "log.jsonl"
    rows = [{"prompt": "x" * (1 + number), "task": "letters"} for number in range(30)]
    pl.DataFrame(rows).write_ndjson(prompts)

    def label(url: str) -> int:
        arguments = ("--prompts", prompts, "--url", url, "--model", "m", "--out", out_file)
        return run("predictor", "label", *arguments, "--max-tokens", "20", "--concurrency", "2")

    with engine(fails_after=10) as (url, _):
        assert label(url) == 2
        assert "status 503" in capsys.readouterr().err
    kept = out_file.read_text().splitlines()
    assert len(kept) >= 8
    # The machine went down in the middle of a line.
    out_file.write_text("\n".join(kept) + '\n{"prompt": "xx')
    with engine() as (url, handler):
        assert label(url) == 0
        assert len(handler.asked) == 30 - len(kept)
        assert label(url) == 0
        assert len(handler.asked) == 30 - len(kept)
    log = prediction.read_log(out_file)
    lengths = [len(prompt) for prompt in log.requests.prompts]
    assert sorted(lengths) == list(range(1, 31))
    assert log.output_tokens.tolist() == [min(length, 20) for length in lengths]
    assert log.cut.tolist() == [length > 20 for length in lengths]
    assert set(log.requests.tasks) == {"letters"}


def test_label_goes_on_after_a_prompt_that_fails_and_asks_for_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out_file = tmp_path / "prompts.jsonl", tmp_path / "log.jsonl"
    pl.DataFrame([{"prompt": "x" * (1 + number)} for number in range(20)]).write_ndjson(prompts)
    arguments = ("predictor", "label", "--prompts", prompts, "--model", "m", "--out", out_file)
    with engine(refused="xxxxx") as (url, _):
        assert run(*arguments, "--url", url) == 0
    printed = capsys.readouterr()
    assert printed.out == "19 rows added\n"
    assert "warning: 1 rows failed" in printed.err
    assert "row 5: " in printed.err
    assert "status 400" in printed.err
    with engine() as (url, handler):
        assert run(*arguments, "--url", url) == 0
        assert handler.asked == ["xxxxx"]
    assert len(prediction.read_log(out_file)) == 20


@pytest.mark.timeout(60)
def test_label_that_ends_gives_up_what_is_under_way(tmp_path: Path) -> None:
    prompts, out_file = tmp_path / "prompts.jsonl", tmp_path / "log.jsonl"
    pl.DataFrame([{"prompt": "x" * (1 + number)} for number in range(40)]).write_ndjson(prompts)
    released = threading.Event()
    before = set(threading.enumerate())
    with engine(fails_after=20, hangs=released) as (url, _):
        arguments = ("--prompts", prompts, "--url", url, "--model", "m", "--out", out_file)
        assert run("predictor", "label", *arguments, "--concurrency", "2") == 2
        # The thread whose answer never comes would keep the command from ending.
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith("ThreadPoolExecutor"):
                thread.join(timeout=10)
                assert not thread.is_alive()
        released.set()


def test_a_log_of_other_prompts_is_not_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, out_file = tmp_path / "prompts.jsonl", tmp_path / "log.jsonl"
    pl.DataFrame([{"prompt": "a"}, {"prompt": "b"}]).write_ndjson(prompts)
    out_file.write_text('{"row": 0, "prompt": "another"}\n')
    with engine() as (url, handler):
        arguments = ("--prompts", prompts, "--url", url, "--model", "m", "--out", out_file)
        assert run("predictor", "label", *arguments) == 2
        assert handler.asked == []
    assert "line 1 is of another prompt than row 1" in capsys.readouterr().err
    assert out_file.read_text() == '{"row": 0, "prompt": "another"}\n'


@pytest.fixture
def trace_file(log: prediction.RequestLog, tmp_path: Path) -> Path:
    judged = log.part("test")
    path = tmp_path / "texts.parquet"
    pl.DataFrame(
        {
            "arrival_s": np.arange(len(judged)) * 0.05,
            "input_tokens": [max(1, len(prompt) // 4) for prompt in judged.requests.prompts],
            "output_tokens": judged.output_tokens,
            "application": judged.requests.tasks,
            "prompt": judged.requests.prompts,
        }
    ).write_parquet(path)
    return path


def test_a_trained_predictor_serves_a_trace_of_texts(
    folders: dict[str, Path], log: prediction.RequestLog, trace_file: Path
) -> None:
    name = f"model:{folders['tfidf']}"
    settings: dict[str, Any] = {"policies": ["central_shortest"], "seeds": 2, "rate": 20.0, "requests": 80}
    found = irouter.compare(trace=trace_file, predictor=name, **settings).report()
    quality = found["predictor_quality"]
    assert quality["name"] == name
    assert quality["tau_b"] > 0.6
    assert found == irouter.compare(trace=trace_file, predictor=name, **settings).report()
    # What the simulator tells is what the predictor says.
    trace = irouter.read_trace(trace_file).with_predictions(str(folders["tfidf"]))
    judged = log.part("test").requests
    told = prediction.load(folders["tfidf"]).predict(judged.prompts, tasks=judged.tasks, apps=judged.tasks)
    assert trace.predicted_quantiles is not None
    assert trace.predicted_quantiles.tolist() == told.quantiles.tolist()
    assert trace.since(1.0).predicted_quantiles is not None
    assert len(trace.since(1.0).prompts) == len(trace.since(1.0)) < len(trace)


def test_a_measured_confusion_matrix_stands_for_a_predictor(folders: dict[str, Path], tmp_path: Path) -> None:
    def tau(predictor: str) -> float:
        found = irouter.compare(
            "conversation", predictor=predictor, policies=["central_shortest"], requests=400, seeds=1
        )
        value = found.report()["predictor_quality"]["tau_b"]
        return 0.0 if value is None else float(value)

    matrix = tmp_path / "matrix.json"
    edges = [50, 100, 200, 400]
    matrix.write_text(json.dumps({"edges": edges, "counts": np.eye(5, dtype=int).tolist()}))
    sure = tau(f"confusion:{matrix}")
    matrix.write_text(json.dumps({"edges": edges, "counts": np.ones((5, 5), dtype=int).tolist()}))
    assert sure > 0.7
    assert abs(tau(f"confusion:{matrix}")) < 0.1
    assert abs(tau(f"confusion:{folders['tfidf']}")) < sure


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "KeyError: 'edges'; expected `edges` and `counts`"),
        ("[1]", "expected `edges` and `counts`"),
        ('{"edges": [10], "counts": [[1]]}', "`confusion.counts` is [[1]], expected 2 rows of 2 counts"),
        ('{"edges": [0], "counts": [[1, 0], [0, 1]]}', "`confusion.edges` is [0], expected starts"),
    ],
)
def test_a_matrix_that_is_none_is_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "matrix.json"
    file.write_text(content)
    with pytest.raises(IrouterError) as error:
        irouter.compare("conversation", predictor=f"confusion:{file}", policies=["random"], requests=10)
    assert message in str(error.value)


def test_a_model_needs_texts(folders: dict[str, Path], tmp_path: Path) -> None:
    name = f"model:{folders['tfidf']}"
    with pytest.raises(IrouterError, match="the scenario `conversation` has no texts"):
        irouter.compare("conversation", predictor=name, policies=["random"], requests=10)
    path = tmp_path / "plain.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n0,5,5\n1,5,5\n")
    with pytest.raises(IrouterError, match="the trace `plain` has no column `prompt`"):
        irouter.compare(trace=path, predictor=name, policies=["random"])
