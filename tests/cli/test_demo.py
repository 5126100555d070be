"""`irouter demo`, as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import irouter
from irouter import profiles
from irouter.serving.demo.workload import demo_profile, demo_workload

pytestmark = pytest.mark.timeout(300)


def start(*options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "irouter.cli", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"NO_COLOR": "1"},
    )


@pytest.mark.slow
def test_it_compares_pairs_and_ends_by_itself() -> None:
    process = start("--duration", "2", "--load", "0.4", "--policy", "ordered_hold", "--limit", "150")
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    requests = re.match(r"([\d,]+) requests in 2 s for each of two policies", output)
    assert requests, output
    rows = {row[0]: row[1:] for line in output.splitlines() if len(row := line.split()) == 8}
    assert set(rows) == {"ordered_hold", "round_robin"}
    for sent, finished, failed, *times in rows.values():
        assert (sent, finished, failed) == (requests[1], requests[1], "0")
        e2e_mean, e2e_p99, ttft_mean, ttft_p99 = map(float, times)
        assert 0 < ttft_mean <= e2e_mean <= e2e_p99
        assert ttft_mean <= ttft_p99 <= e2e_p99
    assert re.search(r"^ordered_hold / round_robin +\d", output, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_all_its_processes(number: signal.Signals, code: int) -> None:
    process = start("--duration", "60", "--load", "0.5")
    assert process.stdout is not None
    line = process.stdout.readline()
    dashboard = line.rpartition(" ")[2].strip()
    with urllib.request.urlopen(dashboard + "/state", timeout=30) as answer:  # noqa: S310 - our own server
        state: Any = json.load(answer)
    urls = [instance["url"] for pool in state["pools"] for instance in pool["instances"]]
    assert [pool["model"] for pool in state["pools"]] == ["guided", "round_robin"]
    assert len(set(urls)) == 8
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    for url in (dashboard, *(url + "/health" for url in urls)):
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(url, timeout=5)  # noqa: S310 - our own server, which is gone


def test_its_requests_are_those_of_the_trace_and_name_their_lengths(tmp_path: Path) -> None:
    profile = tmp_path / "engine.json"
    profile.write_text(json.dumps(demo_profile()))
    trace = tmp_path / "trace.csv"
    lines = [f"{0.5 * row},{10 + 400 * (row % 2)},{5 + row}" for row in range(40)]
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + "\n".join(lines) + "\n")
    workload = demo_workload(profile, trace=trace, load=0.01, duration_s=1e9, seed=0)
    assert set(workload.lengths.values()) == set(range(5, 45)), "a short trace comes again"
    for request in workload.requests:
        found = re.search(r"\[irouter-length:(\d+)\]", request.prompt)
        assert found is not None
        odd = workload.lengths[found[1]] % 2 == 0
        assert len(request.prompt) == (1640 if odd else 40)
        assert request.max_tokens == 1024
    assert len({request.prompt[:8] for request in workload.requests}) == len(workload.lengths), (
        "no prefix is shared"
    )
    with pytest.raises(irouter.IrouterError, match="expected a longer trace"):
        demo_workload(profile, trace=trace, load=0.01, duration_s=-1.0, seed=0)


def test_without_a_trace_it_is_the_paper_s_load(tmp_path: Path) -> None:
    profile = tmp_path / "engine.json"
    profile.write_text(json.dumps(demo_profile()))
    low, high = (
        demo_workload(profile, trace=None, load=load, duration_s=30.0, seed=1) for load in (0.6, 1.2)
    )
    assert 1.6 < len(high.requests) / len(low.requests) < 2.4
    arrivals = np.array([request.arrival_s for request in high.requests])
    assert (np.diff(arrivals) >= 0).all()
    assert arrivals[-1] <= 30.0
    assert high == demo_workload(profile, trace=None, load=1.2, duration_s=30.0, seed=1)
    assert profiles.load(profile)["kv"]["blocks"] == 575


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "round_robin"], "expected another one than round_robin"),
        (["--policy", "guidde"], "guidde"),
        (["--load", "0"], "expected a positive number"),
        (["--trace", "none.csv"], "none.csv"),
    ],
)
def test_a_bad_option_is_named(options: list[str], message: str) -> None:
    process = start(*options)
    output, errors = process.communicate(timeout=100)
    assert (process.returncode, output) == (2, "")
    assert message in errors
