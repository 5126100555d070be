"""`tools/faults.py` in a small size: it checks by itself that nothing is lost in silence and nothing leaks."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "faults.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whatever_breaks_the_router_is_idle_afterwards() -> None:
    command = [sys.executable, str(TOOL), "--requests", "200", "--streams", "10"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=550)  # noqa: S603 - our tool
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "nothing waits, nothing is in flight" in ended.stdout
    assert "kill -9 of an engine with 10 streams open" in ended.stdout
