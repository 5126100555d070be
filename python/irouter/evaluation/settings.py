"""What a comparison may be told: the same names in scenario files, in Python and, with dashes, on the command line."""

import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict

from irouter._core import IrouterError
from irouter._names import unknown
from irouter.evaluation.policies import PolicyChoice, PolicyFunction

Conditions = Literal["exact", "headline"]


class Settings(TypedDict, total=False):
    """Settings of a comparison; what is left out keeps the value of the scenario.

    Attributes:
        profile: Latency profile of the instances: a shipped name or a `.json` file.
        instances: Instances of the cluster, all alike.
        kv_blocks: KV blocks per instance, in place of the profile's.
        scheduler: Scheduler limits in place of the profile's: `{"mode": "vllm-v1", "max_num_seqs": 128, ...}`.
        prefix_cache: Whether engines keep prefix blocks, in place of the profile's setting.
        router_profile: What the router believes the instances to be: `exact`, `fitted` (calibrated on a separate noisy
            log), a shipped name or a `.json` file.
        router_profile_error: How far that is off: `{"step_time": 0.7, "kv_blocks": 1.1, "scheduler": "vllm-v0"}`,
            factors on every step time and on the KV blocks, and another scheduler mode; each may be left out.
        workload: What arrives: `{"kind": "trace"}` or `{"kind": "generated", ...}`.
        rate: Arrivals per second.
        load: Arrivals as a share of the cluster's saturation, in place of a rate.
        clients: A closed loop in place of a rate: `{"count": 64, "think_time_s": 5.0}`. Each client thinks
            (exponentially), asks, and waits for the end before it thinks again; it asks the same of every policy.
        requests: Measured arrivals per run.
        drop_too_long: Leave out requests that cannot fit the profile's context, and count them.
        policies: The policies to compare, by name, by name with options as in `central_shortest(ageing=0.05)`, as
            `external:PROGRAM` or `external:PATH.sock` for processes of their own, or functions; all of the package when
            left out.
        reference: The policy that ratios are against.
        seeds: How many seeds: windows of a trace, draws of a generator.
        first_seed: The first seed.
        predictor: Where predicted output lengths come from, such as `noisy:0.45`, `none` or `oracle`.
        conditions: `exact`: no noise, and the router knows the engines' profile. `headline`: step times with 8 % noise
            per 250 ms and 5 % per instance, and a fitted router profile.
        step_noise: Noise of step times per 250 ms, as a standard deviation of the logarithm.
        instance_noise: The same per instance.
        dispatch_delay_s: Seconds from a decision until the engine has the request.
        event_delay_s: Seconds from something happening in an engine until the router knows.
        staleness_s: Seconds between engine reports, in place of what each policy asks for.
        slo: What goodput counts: `{"ttft_s": ..., "tpot_s": ...}`.
        aborts: Clients that go away: `{"share": ...}`.
        leaks: Requests whose end the router is never told: `{"share": ...}`.
        crashes: Instances that break: `[{"instance": ..., "at_s": ..., "down_s": ...}]`.
        slow: Instances whose steps take `factor` times as long: `[{"instance": ..., "factor": 2.0, "at_s": ...,
            "down_s": ...}]`; from the start without `at_s`, to the end without `down_s`.
        max_hold_s: The longest that a request may be held while an engine has room.
        overtaking_s: The most predicted work, in seconds, that may overtake a request.
        tenant_weights: Shares of tenants, by number.
        sweep: Loads at which to compare as well.
    """

    profile: str
    instances: int
    kv_blocks: int | None
    scheduler: Mapping[str, Any]
    prefix_cache: bool | None
    router_profile: str
    router_profile_error: Mapping[str, Any] | None
    workload: Mapping[str, Any]
    rate: float | None
    load: float | None
    clients: Mapping[str, Any] | None
    requests: int | None
    drop_too_long: bool
    policies: Sequence[str | PolicyFunction | PolicyChoice]
    reference: str
    seeds: int
    first_seed: int
    predictor: str
    conditions: Conditions
    step_noise: float
    instance_noise: float
    dispatch_delay_s: float
    event_delay_s: float
    staleness_s: float | None
    slo: Mapping[str, Any]
    aborts: Mapping[str, Any] | None
    leaks: Mapping[str, Any] | None
    crashes: Sequence[Mapping[str, Any]]
    slow: Sequence[Mapping[str, Any]]
    max_hold_s: float | None
    overtaking_s: float
    tenant_weights: Mapping[str, Any]
    sweep: Sequence[float]


CONDITIONS: Final[Mapping[str, Mapping[str, float | str]]] = {
    "exact": {"step_noise": 0.0, "instance_noise": 0.0, "router_profile": "exact"},
    "headline": {"step_noise": 0.08, "instance_noise": 0.05, "router_profile": "fitted"},
}
"""What each name of conditions stands for."""

DEFAULTS: Final[Mapping[str, Any]] = {
    "instances": 4,
    "profile": "llama-3.1-8b@a100",
    "predictor": "noisy:0.45",
    "reference": "round_robin",
    "seeds": 1,
    **CONDITIONS["exact"],
}
"""What a scenario that says nothing else runs with."""

# What says how much arrives: one of them.
_DEMAND: Final = ("rate", "load", "clients")
_HINTS: Final = typing.get_type_hints(Settings)
_WORDS: Final = {
    bool: "true or false",
    int: "a whole number, zero or more",
    float: "a number",
    str: "a text",
    Mapping: "a table",
    Callable: "a function",
    PolicyChoice: "a choice",
}


def checked(settings: Mapping[str, Any], where: str) -> Settings:
    """`settings`, with every name known and every value of its type.

    Args:
        settings: Settings from a scenario file or a caller.
        where: Where they come from, for errors.

    Raises:
        IrouterError: Naming the first bad setting.
    """
    for name, value in settings.items():
        if name not in _HINTS:
            error = unknown("setting", name, _HINTS, f"known are {', '.join(_HINTS)}")
            raise IrouterError(f"{where}: {error}")
        check_value(name, value, _HINTS[name], where)
    return typing.cast("Settings", dict(settings))


def check_value(name: str, value: object, hint: Any, where: str) -> None:
    """Raises unless `value` is of the type that `hint` says, with finite numbers only.

    Args:
        name: Name of the value, for the error.
        value: What was given.
        hint: A type, as `typing.get_type_hints` has it.
        where: Where it comes from, for the error.

    Raises:
        IrouterError: Naming the value and what was expected.
    """
    if not _is_finite(value):
        raise IrouterError(f"{where}: `{name}` is {value!r}, expected finite numbers")
    if not _matches(value, hint):
        raise IrouterError(f"{where}: `{name}` is {value!r}, expected {_expected(hint)}")


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """One set of settings from several, later ones first in force.

    Conditions stand for several settings, and a rate, a load and clients displace one another.
    """
    result: dict[str, Any] = {}
    for layer in layers:
        if any(layer.get(name) is not None for name in _DEMAND):
            for name in _DEMAND:
                result.pop(name, None)
        result |= CONDITIONS.get(layer.get("conditions", ""), {})
        result |= {name: value for name, value in layer.items() if name != "conditions"}
    return result


def conditions_of(settings: Mapping[str, Any]) -> str:
    """Name of the conditions that `settings` amount to, `custom` where they have none."""
    for name, parts in CONDITIONS.items():
        if all(settings.get(key) == value for key, value in parts.items()):
            return name
    return "custom"


def _is_finite(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _matches(value: object, hint: Any) -> bool:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(_matches(value, option) for option in options)
    if origin is Literal:
        return value in options
    if origin is Sequence:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        return all(_matches(each, *options) for each in value)
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    # A whole number is a number; what is in a table is checked by what reads it.
    fits = isinstance(value, int | float if hint is float else origin or hint)
    return fits and not (hint is int and value < 0)  # type: ignore[operator]


def _expected(hint: Any) -> str:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return " or ".join(_expected(option) for option in options if option is not types.NoneType)
    if origin is Literal:
        return " or ".join(f"`{option}`" for option in options)
    if origin is Sequence:
        return f"a list, each {_expected(options[0])}"
    return _WORDS[origin or hint]
