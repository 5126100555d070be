"""Settings: known names, right types, and which layer is in force."""

import pytest

from irouter._core import IrouterError
from irouter.evaluation.settings import CONDITIONS, DEFAULTS, checked, conditions_of, layered


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"polices": []}, "here: unknown setting `polices`; did you mean `policies`?"),
        ({"instances": "4"}, "here: `instances` is '4', expected a whole number, zero or more"),
        ({"instances": True}, "here: `instances` is True, expected a whole number, zero or more"),
        ({"instances": 4.0}, "here: `instances` is 4.0, expected a whole number, zero or more"),
        ({"load": float("nan")}, "here: `load` is nan, expected finite numbers"),
        ({"slo": {"ttft_s": float("inf")}}, "here: `slo` is {'ttft_s': inf}, expected finite numbers"),
        ({"load": "high"}, "here: `load` is 'high', expected a number"),
        (
            {"policies": "random"},
            "here: `policies` is 'random', expected a list, each a text or a function or a choice",
        ),
        (
            {"policies": [1]},
            "here: `policies` is [1], expected a list, each a text or a function or a choice",
        ),
        ({"workload": "trace"}, "here: `workload` is 'trace', expected a table"),
        ({"drop_too_long": 1}, "here: `drop_too_long` is 1, expected true or false"),
        ({"conditions": "best"}, "here: `conditions` is 'best', expected `exact` or `headline`"),
        ({"crashes": [3]}, "here: `crashes` is [3], expected a list, each a table"),
    ],
)
def test_a_bad_setting_is_named(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(IrouterError) as raised:
        checked(settings, "here")
    assert str(raised.value) == complaint


def test_good_settings_pass_unchanged() -> None:
    settings = {
        "load": 1,
        "rate": None,
        "policies": ("a", "b"),
        "slo": {"ttft_s": 1.0},
        "prefix_cache": False,
    }
    assert checked(settings, "here") == settings


def test_a_rate_displaces_the_load_of_the_layer_below_and_back() -> None:
    assert layered({"load": 0.9}, {"rate": 5.0}) == {"rate": 5.0}
    assert layered({"rate": 5.0}, {"load": 0.9}) == {"load": 0.9}
    assert layered({"load": 0.9}, {"seeds": 2}) == {"load": 0.9, "seeds": 2}


def test_conditions_displace_the_noise_below_and_yield_to_the_noise_beside_them() -> None:
    noisy = layered(DEFAULTS, {"conditions": "headline"})
    assert {key: noisy[key] for key in CONDITIONS["headline"]} == CONDITIONS["headline"]
    assert (conditions_of(DEFAULTS), conditions_of(noisy)) == ("exact", "headline")
    own = layered(noisy, {"step_noise": 0.5})
    assert (own["step_noise"], own["router_profile"], conditions_of(own)) == (0.5, "fitted", "custom")
    assert conditions_of(layered(own, {"conditions": "exact"})) == "exact"
