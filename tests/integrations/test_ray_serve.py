"""Our request router inside Ray Serve: its own routing, and a real application on a local cluster."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import irouter
from serving.support import DaemonThread, assert_idle

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-ray" / "bin" / "python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON.exists(), reason="`make peers` installs Ray Serve"),
]


def drive(name: str, *arguments: str) -> dict[str, Any]:
    ended = subprocess.run(  # noqa: S603 - our own driver
        [PYTHON, ROOT / "tests/integrations" / name, *arguments],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT / "python"),
            "RAY_USAGE_STATS_ENABLED": "0",
        },
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    # Ray writes to the same stream, until after the end.
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def check(result: dict[str, Any]) -> None:
    assert len(result["replicas"]) == 2, "both were asked"
    assert sum(result["replicas"]) == 60
    assert result["long"][0] >= 12, f"long requests are spread by their work: {result['long']}"
    assert (result["pieces"], result["failed"]) == (10, 4)
    assert result["idle"], "every lease came back: of answers, streams, failures and what was cancelled"
    assert result["leases"] == 0
    assert result["submitted"] == sum(result["endings"].values()) >= 66
    assert result["instances"], "all are ready"


def test_serves_own_routing_asks_our_router_and_gives_leases_back() -> None:
    scenes = drive("drive_ray_router.py")
    by_work = scenes["by_work"]
    # Which of the two is first is Serve's order.
    first, *others = by_work.pop("chosen")
    assert others == [{"a": "b", "b": "a"}[first]] * 3
    assert by_work == {"in_flight": 0, "endings": {"finished": 4}, "leases": 0}
    full = scenes["full_replicas_are_left_out"]
    assert (full["chosen"], full["in_flight"], full["leases"]) == (["b"] * 3, 0, 0)
    assert full["endings"]["finished"] == 3
    cancelled = scenes["cancelled_while_all_are_full"]
    assert (cancelled["in_flight"], cancelled["leases"]) == (0, 0)
    assert set(cancelled["endings"]) <= {"cancelled", "refused", "dropped"}
    changing = scenes["replicas_come_and_go"]
    assert (changing["before"], changing["after"], changing["new"]) == (["a", "a", "b", "b"], ["b"] * 4, "c")
    assert changing["endings"]["lost"] == 2


@pytest.mark.real
def test_serve_routes_by_our_router_and_every_lease_comes_back() -> None:
    check(drive("drive_ray_serve.py"))


@pytest.mark.real
def test_handles_of_a_host_share_a_daemon(tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    with (
        irouter.Router(policy="least_work", profile="llama-3.1-8b@h100") as router,
        DaemonThread(router, path),
    ):
        check(drive("drive_ray_serve.py", str(path)))
        assert_idle(router)
        assert router.statistics.submitted >= 66
