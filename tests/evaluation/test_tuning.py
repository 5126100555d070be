"""The search for constants, and what it writes."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from irouter._core import IrouterError
from irouter.cli import main
from irouter.evaluation import tuned, tuning
from irouter.evaluation.executors import LocalExecutor
from irouter.evaluation.registry import Tunable, registry

BUDGET = 60_000
SMALL: dict[str, Any] = {"scenarios": ["conversation"], "loads": [1.1], "budget": BUDGET}


def test_a_search_keeps_to_its_budget_and_its_ranges_and_repeats_itself() -> None:
    reported: list[tuple[int, int]] = []
    found = tuning.tune(
        "central_shortest", **SMALL, threads=1, progress=lambda done, total: reported.append((done, total))
    )
    assert BUDGET / 2 < found.requests <= BUDGET
    assert reported[-1] == (found.requests, BUDGET)
    assert found.objective <= found.default_objective
    for tunable in registry()["central_shortest"].tunable:
        assert tunable.low <= found.constants.get(tunable.option, tunable.low) <= tunable.high
    assert tuning.tune("central_shortest", **SMALL, threads=2) == found
    assert tuning.tune("central_shortest", **SMALL, executor=LocalExecutor(3)) == found
    assert tuning.tune("central_shortest", **SMALL, seed=1) != found


def test_a_rule_without_constants_is_only_measured() -> None:
    found = tuning.tune("round_robin", **SMALL)
    assert (found.constants, found.objective, found.default_objective) == ({}, 0.0, 0.0)


def test_positions_and_values_are_inverse() -> None:
    for tunable in (
        Tunable("x", 0.5, 2.5, "linear"),
        Tunable("x", 0.001, 10.0, "logarithmic"),
        Tunable("x", 0, 32, "count"),
    ):
        for share in (0.0, 0.25, 0.5, 1.0):
            value = tuning._value(tunable, share)
            assert tuning._value(tunable, tuning._position(tunable, value)) == value
        assert (tuning._value(tunable, 0.0), tuning._value(tunable, 1.0)) == (tunable.low, tunable.high)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "central_shortes"}, "did you mean `central_shortest`"),
        ({"scenarios": ["azure-conv"]}, "replays a trace"),
        ({"scenarios": []}, "at least one of each"),
        ({"budget": 1000}, r"^a budget of 1000 requests: expected at least 43000$"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(IrouterError, match=message):
        tuning.tune(**{"policy": "central_shortest", **SMALL, **arguments})


def test_the_command_sets_the_entry_of_its_policy_and_keeps_the_others(tmp_path: Path) -> None:
    file = tmp_path / "tuned.toml"
    tuned.write(file, "lmetric", {"constants": {"x": 1}})
    arguments = ["--scenario", "conversation", "--loads", "1.1", "--budget", str(BUDGET), "--out", str(file)]
    with pytest.raises(SystemExit) as stopped:
        main(["tune", "round_robin", *arguments])
    assert stopped.value.code == 0
    entries = tomllib.loads(file.read_text("utf-8"))
    assert entries["lmetric"] == {"constants": {"x": 1}}
    assert entries["round_robin"]["workloads"] == ["conversation@1.1"]
    file.write_text("no toml", "utf-8")
    with pytest.raises(IrouterError, match="expected a file of tuned constants"):
        tuned.write(file, "lmetric", {})


def test_the_shipped_constants_are_those_of_policies_that_exist() -> None:
    for name, entry in tuned.shipped().items():
        tunable = {tunable.option for tunable in registry()[name].tunable}
        assert set(entry["constants"]) <= tunable, name
