"""Rules of the layout that no compiler checks. Each test first shows that it looked at something."""

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST_FILE_LINES = 500


def tracked(*patterns: str) -> list[Path]:
    listing = subprocess.run(  # noqa: S603 - a fixed command
        ["git", "ls-files", "-z", "--", *patterns],  # noqa: S607 - git is where the developer has it
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).exists()]


def test_the_pure_crates_know_nothing_of_python_clocks_or_sockets() -> None:
    forbidden = {"pyo3", "numpy", "irouter-external", "tokio", "chrono", "reqwest", "hyper"}
    manifests = {
        crate: tomllib.loads((ROOT / "rust" / crate / "Cargo.toml").read_text())
        for crate in ("irouter-core", "irouter-sim")
    }
    for crate, manifest in manifests.items():
        dependencies = set(manifest["dependencies"])
        assert "thiserror" in dependencies, crate
        assert not dependencies & forbidden, crate
    assert "irouter-sim" not in manifests["irouter-core"]["dependencies"]
    assert "rayon" not in manifests["irouter-core"]["dependencies"]


def test_every_python_class_of_the_core_is_frozen() -> None:
    sources = tracked("rust/irouter-py/src/*.rs")
    classes = [
        match for source in sources for match in re.findall(r"#\[pyclass\((.*?)\)\]", source.read_text())
    ]
    assert len(classes) >= 4
    assert all("frozen" in arguments.split(", ") for arguments in classes), classes


def test_only_the_policies_that_say_so_read_true_lengths() -> None:
    readers = {
        source.stem
        for source in tracked("rust/irouter-core/src/policy/*.rs")
        if "true_output_tokens" in source.read_text()
    }
    assert readers, "the oracles read it"
    assert readers <= {"decode_balancer", "least_work_oracle", "estimate", "testing"}


def test_no_file_is_longer_than_one_idea() -> None:
    # A compiled module has one stub, however much is in it.
    sources = tracked("*.rs", "*.py")
    lengths = {source.relative_to(ROOT): len(source.read_text().splitlines()) for source in sources}
    assert len(lengths) > 100
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE_LINES} == {}
