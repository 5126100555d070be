"""A Ray cluster gives what this machine gives, also when it loses a worker. The cluster here is a real, local one."""

import subprocess
import sys
from pathlib import Path

import pytest

import irouter
from irouter import IrouterError
from irouter.evaluation.executors import cluster

PROGRAM = """
import os, sys
import numpy as np
import irouter
from irouter.evaluation.ray_executor import RayExecutor

lost = sys.argv[1]

def emptiest(request, instances):
    # The first worker that comes here is lost.
    try:
        os.close(os.open(lost, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return min(instances, key=lambda instance: instance["in_flight"])["instance"]
    os._exit(1)

trace = irouter.Trace(
    name="mine", format="irouter", arrival_s=np.arange(300) / 8.0,
    input_tokens=np.arange(300) % 700 + 1, output_tokens=np.arange(300) % 90 + 1,
)
calls = []
settings = dict(
    trace=trace, load=0.7, requests=50, seeds=2, sweep=[1.1], conditions="headline", policies=["least_work", emptiest]
)
with RayExecutor("local") as executor:
    there = irouter.compare(**settings, executor=executor, progress=lambda *call: calls.append(call))
    assert os.path.exists(lost), "no worker was lost"
    assert there.to_json() == irouter.compare(**settings).to_json()
    assert calls[-1] == (12, 12), calls
    try:
        irouter.compare("conversation", requests=10, policies=["nonsense"], executor=executor)
    except irouter.IrouterError as error:
        assert "unknown policy `nonsense`" in str(error), error
print("the same")
"""


@pytest.mark.timeout(300)
def test_a_cluster_gives_the_same_bytes_and_runs_the_share_of_a_lost_worker_again(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "lost")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own program
    # Before it stands what Ray has to say of the loss.
    assert done.stdout.endswith("the same\n"), done.stderr


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(IrouterError, match=r'the package `ray`: run pip install "irouter-llm\[ray\]"$'),
        cluster("local"),
    ):
        pass


def test_an_address_where_nobody_listens_is_named_at_once() -> None:
    with cluster("127.0.0.1:1") as executor:
        assert executor is not None
        with pytest.raises(IrouterError, match=r"^no Ray cluster at `127\.0\.0\.1:1`: "):
            irouter.compare("conversation", requests=10, executor=executor)
