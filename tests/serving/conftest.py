"""Profiles for the tests of the live router."""

import json
from pathlib import Path
from typing import Any

import pytest

from irouter import profiles


@pytest.fixture(scope="session")
def small_profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine with two batch slots, so that little load fills it."""
    profile: dict[str, Any] = profiles.load("llama-2-7b@v100-paper")
    profile["scheduler"]["max_num_seqs"] = 2
    path = tmp_path_factory.mktemp("profiles") / "small.json"
    path.write_text(json.dumps(profile))
    return path
