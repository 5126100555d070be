"""Scenarios: what ships loads, and a bad file is named."""

from pathlib import Path

import pytest

from irouter import profiles, scenarios
from irouter._core import IrouterError
from irouter.evaluation.experiment import resolve


@pytest.mark.parametrize("name", scenarios.names())
def test_every_shipped_scenario_loads_and_names_a_shipped_profile(name: str) -> None:
    scenario = scenarios.load(name)
    assert scenario.description
    assert scenario.settings["profile"] in profiles.names()
    assert scenario.replays == (scenario.settings["workload"]["kind"] == "trace")


@pytest.mark.parametrize("name", [name for name in scenarios.names() if not scenarios.load(name).replays])
def test_every_generated_scenario_becomes_an_experiment(name: str) -> None:
    assert resolve(name, None, {}).to_json()


@pytest.mark.parametrize("name", [name for name in scenarios.names() if scenarios.load(name).replays])
def test_a_scenario_without_its_trace_says_where_it_is_published(name: str) -> None:
    with pytest.raises(
        IrouterError, match=rf"^the scenario `{name}` replays a trace: give its file"
    ) as raised:
        resolve(name, None, {})
    assert scenarios.load(name).trace_source in str(raised.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("instances = ", "mine.toml: Invalid value (at end of document)"),
        ("instances = 4", "mine.toml: no `description`, expected what the scenario is, in one line"),
        (
            'description = "x"\ninstance = 4',
            "mine.toml: unknown setting `instance`; did you mean `instances`?",
        ),
        (
            'description = "x"\ninstances = "4"',
            "mine.toml: `instances` is '4', expected a whole number, zero or more",
        ),
        ('description = "x"\nnotes = "y"', "mine.toml: `notes` is 'y', expected a list of texts"),
        ("description = 3", "mine.toml: `description` is 3, expected a text"),
    ],
)
def test_a_bad_scenario_file_is_named_with_its_key(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(IrouterError) as raised:
        scenarios.load(path)
    assert str(raised.value) == complaint


def test_a_scenario_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'description = "x"\nnotes = ["a", "b"]\nload = 0.5\n[workload]\nkind = "trace"', encoding="utf-8"
    )
    scenario = scenarios.load(path)
    assert (scenario.name, scenario.notes, scenario.settings["load"]) == ("mine", ("a", "b"), 0.5)


@pytest.mark.parametrize("load", [scenarios.load, profiles.load])
@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_missing_file_is_named(load: object, suffix: str) -> None:
    assert callable(load)
    with pytest.raises(IrouterError, match=rf"nowhere\.{suffix}"):
        load(f"nowhere.{suffix}")


def test_a_bad_profile_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(IrouterError, match=r"^mine\.json: "):
        profiles.load(path)


def test_a_trace_for_a_scenario_that_generates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        IrouterError, match=r"^the scenario `conversation` generates its requests, it takes no trace$"
    ):
        resolve("conversation", tmp_path / "t.csv", {})
