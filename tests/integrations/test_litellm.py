"""Our strategy inside the real LiteLLM, in front of emulated engines."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from serving.support import Server

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-litellm" / "bin" / "python"
PROFILE = "llama-3.1-8b@h100"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not PYTHON.exists(), reason="`make peers` installs LiteLLM"),
]


def drive(urls: Sequence[str]) -> dict[str, Any]:
    ended = subprocess.run(  # noqa: S603 - our own driver
        [PYTHON, ROOT / "tests/integrations/drive_litellm.py", *urls],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT / "python")},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def test_litellm_routes_by_our_router_and_every_lease_comes_back(tmp_path: Path) -> None:
    lengths = tmp_path / "lengths.json"
    lengths.write_text('{"short": 12}')
    arguments = ["--profile", PROFILE, "--port", "0", "--lengths", str(lengths)]
    with Server("engine", *arguments) as first, Server("engine", *arguments) as second:
        result = drive([first.url, second.url])
        assert result["tokens"] == [12] * 20
        assert result["sync_tokens"] == 12
        assert (result["endings"], result["left"]) == ({"finished": 21}, [0, 0])
        assert sorted(result["instances"]) == sorted([first.url, second.url])
        first.process.kill()
        result = drive([first.url, second.url])
        assert result["tokens"] == [12] * 20, "LiteLLM tries again and its cooldown is kept to"
        assert result["endings"]["finished"] == 21
        assert result["endings"]["failed"] >= 1
        assert result["left"] == [0, 0]
