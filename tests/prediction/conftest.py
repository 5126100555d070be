"""A log whose answers are as long as their tasks and words say, and predictors trained on it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from irouter import prediction

WORDS = {"translation": ("translate", 30), "code": ("implement", 200), "writing": ("essay", 600)}


def make_rows(rows: int, seed: int) -> list[dict[str, object]]:
    generator = np.random.default_rng(seed)
    tasks = sorted(WORDS)
    result: list[dict[str, object]] = []
    for number in range(rows):
        task = tasks[int(generator.integers(len(tasks)))]
        word, typical = WORDS[task]
        detail = int(generator.integers(1, 30))
        length = int(max(1, typical * (0.5 + detail / 30) * np.exp(0.3 * generator.standard_normal())))
        limit = 400 if number % 4 == 0 else 4000
        result.append(
            {
                "prompt": f"Please {word} part {number} " + "with care " * detail,
                "output_tokens": min(length, limit),
                "task": task,
                "app": f"app of {task}",
                "finish": "length" if length > limit else "stop",
            }
        )
    return result


@pytest.fixture(scope="session")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "requests.parquet"
    pl.DataFrame(make_rows(1500, 3)).write_parquet(path)
    return path


@pytest.fixture(scope="session")
def log(log_file: Path) -> prediction.RequestLog:
    return prediction.read_log(log_file)


@pytest.fixture(scope="session")
def folders(log: prediction.RequestLog, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("predictors")
    found = {}
    for backend in ("history", "tfidf"):
        found[backend] = root / backend
        prediction.train(log, found[backend], backend=backend)
    return found
