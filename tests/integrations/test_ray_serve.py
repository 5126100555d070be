"""Our request router inside a real Ray Serve application."""

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
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON.exists(), reason="`make peers` installs Ray Serve"),
]


def drive(*arguments: str) -> dict[str, Any]:
    ended = subprocess.run(  # noqa: S603 - our own driver
        [PYTHON, ROOT / "tests/integrations/drive_ray_serve.py", *arguments],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT / "python"),
            "RAY_USAGE_STATS_ENABLED": "0",
            # A busy machine takes longer to start a node than Ray waits.
            "RAY_raylet_start_wait_time_s": "240",
            "RAY_agent_register_timeout_ms": "240000",
        },
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def check(result: dict[str, Any]) -> None:
    assert len(result["replicas"]) == 2, "both were asked"
    assert sum(result["replicas"]) == 60
    assert result["long"][0] >= 12, f"long requests are spread by their work: {result['long']}"
    assert (result["pieces"], result["failed"]) == (10, 4)
    assert result["idle"], "every lease came back: of answers, streams, failures and what was cancelled"
    assert result["leases"] == 0
    assert result["submitted"] == sum(result["endings"].values()) >= 66
    assert result["instances"] == ["ready", "ready"]


def test_serve_routes_by_our_router_and_every_lease_comes_back() -> None:
    check(drive())


def test_handles_of_a_host_share_a_daemon(tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    with (
        irouter.Router(policy="least_work", profile="llama-3.1-8b@h100") as router,
        DaemonThread(router, path),
    ):
        check(drive(str(path)))
        assert_idle(router)
        assert router.statistics.submitted >= 66
