"""A suite that takes a second, and what comes out of it."""

from pathlib import Path

import polars as pl
import pytest

from irouter import bench

TINY = """
description = "Small enough for tests"
reference = "round_robin"
settings = { conditions = "headline", predictor = "noisy:0.45" }

[modes.quick]
windows = 2
requests = 60
capacity_windows = 1
probes = 2

[modes.standard]
windows = 4
requests = 60
capacity_windows = 2
probes = 3

[modes.full]
windows = 4
requests = 60
capacity_windows = 2
probes = 3
limited = false

[limits]
random = 2

[groups]
few = ["round_robin", "least_work"]

[[points]]
name = "chat"
class = "chat"
title = "Chats"
scenario = "conversation"
settings = { load = 0.9 }

[[points]]
name = "replay"
class = "replay"
title = "A trace"
scenario = "azure-conv"
settings = { load = 1.1 }
windows = 3
trace_files = ["elsewhere", "mine"]
trace_from_s = 5.0

[[points]]
name = "most"
kind = "capacity"
title = "Capacity on chats"
scenario = "conversation"

[[sweeps]]
name = "aborts"
title = "Clients go away"
point = "chat"
policies = "few"
windows = 2
cases = { "20 %" = { aborts = { share = 0.2 } } }
"""
POLICIES = ["random", "least_work", "equalised:smg_least_load", "queued:dynamo_kv"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the suite."""
    path = tmp_path_factory.mktemp("suite") / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trace of the suite."""
    folder = tmp_path_factory.mktemp("traces")
    rows = {
        "arrival_s": [0.05 * row for row in range(400)],
        "input_tokens": [200 + 37 * row % 900 for row in range(400)],
        "output_tokens": [20 + 53 * row % 300 for row in range(400)],
    }
    pl.DataFrame(rows).write_csv(folder / "mine.csv")
    return folder


@pytest.fixture(scope="session")
def result(tiny: Path, traces: Path) -> bench.Result:
    """A run of the suite with both points."""
    return bench.run(tiny, policies=POLICIES, traces=traces)
