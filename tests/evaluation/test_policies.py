"""Policies to compare: names, options and functions."""

from typing import Any

import pytest

from irouter._core import IrouterError
from irouter.evaluation.policies import choice_of, choose
from irouter.evaluation.registry import registry
from irouter.evaluation.tuned import constants_of


def nearest(request: dict[str, Any], instances: list[dict[str, Any]]) -> int:  # noqa: ARG001 - never called
    return int(instances[0]["instance"])


def labels(policies: list[Any] | None, reference: str) -> list[str]:
    return [choice.label for choice in choose(policies, reference)]


def test_without_names_every_policy_of_the_package_is_chosen() -> None:
    assert labels(None, "round_robin") == list(registry())


def test_the_reference_comes_first_where_it_is_not_among_the_chosen() -> None:
    assert labels(["random", "min_min"], "round_robin") == ["round_robin", "random", "min_min"]
    assert labels(["random", "round_robin"], "round_robin") == ["random", "round_robin"]


def test_a_policy_named_twice_runs_once_and_options_tell_two_apart() -> None:
    chosen = labels(["a", "a(x=1)", "a", "a(x=2)"], "a")
    assert chosen == ["a", "a(x=1)", "a(x=2)"]


def test_options_are_read_as_json_and_labelled_in_order() -> None:
    choice = choice_of('central_shortest(z="s", ageing=0.05,flag=true)')
    assert choice.options == {"z": "s", "ageing": 0.05, "flag": True}
    assert choice.label == 'central_shortest(ageing=0.05,flag=true,z="s")'
    assert choice.to_data() == {"name": "central_shortest", "options": choice.options}
    assert choice_of("random").to_data() == "random"


def test_an_equalised_rule_is_the_rule_with_other_options_and_keeps_its_label() -> None:
    choice = choice_of("queued:equalised:lmetric")
    assert (choice.name, choice.label) == ("queued:lmetric", "queued:equalised:lmetric")
    assert choice.to_data() == {
        "name": "queued:lmetric",
        "options": {**registry()["lmetric"].equalised, **constants_of("lmetric")},
        "label": "queued:equalised:lmetric",
    }
    given = choice_of("equalised:central_shortest(ageing=0.5)")
    assert given.options["ageing"] == 0.5
    assert given.label == "equalised:central_shortest(ageing=0.5)"
    with pytest.raises(IrouterError, match="did you mean `lmetric`"):
        choice_of("equalised:lmetrik")


def test_a_function_goes_by_its_name() -> None:
    choice = choice_of(nearest)
    assert (choice.label, choice.function) == ("nearest", nearest)


def test_a_function_may_not_have_the_name_of_a_policy() -> None:
    nearest.__name__ = "random"
    try:
        with pytest.raises(IrouterError, match=r"^the function `random` has the name of another policy$"):
            choose([nearest], "round_robin")
    finally:
        nearest.__name__ = "nearest"


@pytest.mark.parametrize("text", ["a(x)", "a(x=)", "a(x=y)", "a()"])
def test_options_that_cannot_be_read_are_named(text: str) -> None:
    with pytest.raises(
        IrouterError, match=r"^policy `.*`: cannot read `.*`, expected NAME\(OPTION=VALUE,...\)"
    ):
        choice_of(text)


def test_no_policies_are_refused() -> None:
    with pytest.raises(IrouterError, match=r"^no policies: expected at least one$"):
        choose([], "round_robin")
