"""The paper's experiments, run again."""

import json
from pathlib import Path

import pytest

from irouter import IrouterError
from irouter.cli import main
from irouter.reproduction import words
from irouter.reproduction.paper import Reproduction, paper
from irouter.training.paper_agents import file_of, found


@pytest.fixture(scope="module")
def reproduction() -> Reproduction:
    return paper(seeds=1)


def test_every_set_up_of_the_paper_runs_with_its_baselines(reproduction: Reproduction) -> None:
    scenarios = [setup.scenario for setup, _ in reproduction.experiments]
    assert scenarios == [
        "paper-main",
        "paper-main-card",
        "paper-8-instances",
        "paper-a100",
        "paper-a100-chunked",
        "paper-production",
    ]
    for setup, comparison in reproduction.experiments:
        assert set(setup.printed) < set(comparison.policies)
        assert {"join_shortest_queue", "max_capacity", "min_min"} < set(comparison.policies)
        assert comparison.experiment.notes, "what the paper leaves out is said"


def test_the_papers_agents_join_the_set_up_that_they_were_trained_for(tmp_path: Path) -> None:
    with pytest.raises(
        IrouterError, match=r"no agent in .*: expected files such as paper-main.workload-guided"
    ):
        paper(seeds=1, agents=tmp_path)
    file_of(tmp_path, "paper-main", "baseline").write_bytes(b"")
    assert [choice.label for choice in found(tmp_path, "paper-main")] == ["agent:baseline"]
    assert found(tmp_path, "paper-a100") == []
    with pytest.raises(
        IrouterError, match="`weights` is text of 0 letters, expected a file of weights in base64"
    ):
        paper(seeds=1, agents=tmp_path)


def test_printed_gains_stand_beside_the_first_load_only(reproduction: Reproduction) -> None:
    setup, comparison = reproduction.experiments[0]
    [(title, point, printed)] = words.points(setup, comparison)
    assert title == setup.title
    assert printed["agent:workload-guided"] == 11.43
    by_name = {row.policy: row for row in words.rows(point, printed)}
    assert by_name["min_min"].printed == 1.5
    assert by_name["round_robin"].gains == ((0.0,), (0.0,), (0.0,))
    sweep = [printed for _, _, printed in words.points(*reproduction.experiments[1])]
    assert sweep[1:] == [{}, {}]


def test_chunking_is_what_tells_the_two_a100_set_ups_apart(reproduction: Reproduction) -> None:
    modes = [
        json.loads(comparison.experiment.to_json())["profile"]["scheduler"]["mode"]
        for setup, comparison in reproduction.experiments
        if "a100" in setup.scenario
    ]
    assert modes == ["vllm-v0", "vllm-v1"]


def test_the_command_writes_figures_tables_and_a_page_that_needs_nothing_else(tmp_path: Path) -> None:
    files = {name: tmp_path / f"paper.{name}" for name in ("json", "markdown", "html")}
    options = [part for name, file in files.items() for part in (f"--{name}", str(file))]
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", "paper", "--seeds", "1", *options])
    assert stopped.value.code == 0
    figures = json.loads(files["json"].read_text("utf-8"))
    assert figures["setups"][0]["agents"]["workload-guided"] == 11.43
    assert "| `min_min` |" in files["markdown"].read_text("utf-8")
    page = files["html"].read_text("utf-8")
    assert "Production lengths" in page
    assert "<script src" not in page
    assert "<link" not in page
