"""Same seed, same bytes: in one process or two, with one thread or many."""

import subprocess
import sys

import pytest

ARGUMENTS = [
    "compare",
    "conversation",
    "--load",
    "1.1",
    "--requests",
    "300",
    "--seeds",
    "3",
    "--conditions",
    "headline",
    "--json",
    "-",
]


def report(*arguments: str) -> bytes:
    command = [sys.executable, "-m", "irouter.cli", *ARGUMENTS, *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603 - this interpreter


@pytest.fixture(scope="module")
def reference() -> bytes:
    return report("--threads", "1")


def test_another_process_writes_the_same_bytes(reference: bytes) -> None:
    assert len(reference) > 10_000
    assert report("--threads", "1") == reference


def test_more_threads_write_the_same_bytes(reference: bytes) -> None:
    assert report("--threads", "5") == reference


def test_another_seed_writes_other_bytes(reference: bytes) -> None:
    assert report("--threads", "1", "--set", "first_seed=3") != reference
