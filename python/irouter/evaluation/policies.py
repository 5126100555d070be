"""Which policies to compare: by name, by name with options, or functions of the caller's own."""

import base64
import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from irouter._core import IrouterError
from irouter._names import unknown
from irouter.evaluation.registry import registry
from irouter.evaluation.tuned import constants_of

PolicyFunction = Callable[[dict[str, Any], list[dict[str, Any]]], int]
"""Gets a request and the instances that can take it, as plain dictionaries, and returns the number of one of them."""

_EXTERNAL: Final = "external:"
# The option of a learned policy that names a file.
_WEIGHTS: Final = "weights"
_WITH_OPTIONS: Final = re.compile(r"(?P<name>[^()]+)\((?P<options>.*)\)")


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyChoice:
    """A policy to run.

    Attributes:
        name: Its name.
        options: Options that differ from its defaults.
        function: The caller's own, where it is one.
        as_label: What reports call it, in place of its name and options.
    """

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    function: PolicyFunction | None = None
    as_label: str | None = None

    @property
    def label(self) -> str:
        """Name and options, as reports have it: `central_shortest(ageing=0.05)`."""
        if self.as_label is not None:
            return self.as_label
        options = ",".join(f"{option}={json.dumps(value)}" for option, value in sorted(self.options.items()))
        return f"{self.name}({options})" if options else self.name

    @property
    def is_external(self) -> bool:
        """Whether it is a program of its own (`docs/external-policies.md`)."""
        return self.name.startswith(_EXTERNAL)

    def to_data(self) -> str | dict[str, Any]:
        """The policy as an experiment has it."""
        if self.as_label is not None:
            return {"name": self.name, "options": dict(self.options), "label": self.as_label}
        return {"name": self.name, "options": dict(self.options)} if self.options else self.name

    def to_spec(self) -> str:
        """The policy as `irouter._core.Router` takes it, where it is no function."""
        data = self.to_data()
        return data if isinstance(data, str) else json.dumps(data)


def choice_of(policy: str | PolicyFunction | PolicyChoice) -> PolicyChoice:
    """The policy that a name, a name with options, or a function stands for; a choice stands for itself.

    Before a name may stand `equalised:`, a rule of another router with what this one knows and its tuned constants; and
    before that `queued:` or `queued-shortest:`, the rule behind the central queue. The option `weights` of a learned
    policy is a file, as in `guided(weights="policy.safetensors")`.

    Raises:
        IrouterError: For options that cannot be read, or an unknown policy to equalise.
    """
    if isinstance(policy, PolicyChoice):
        return policy
    if callable(policy):
        return PolicyChoice(getattr(policy, "__name__", type(policy).__name__), function=policy)
    return _with_weights(_equalised(_parsed(policy.strip())))


def _parsed(text: str) -> PolicyChoice:
    """Name and options, as written."""
    matched = _WITH_OPTIONS.fullmatch(text)
    if matched is None:
        return PolicyChoice(text)
    options = {}
    for assignment in matched["options"].split(","):
        option, _, value = assignment.partition("=")
        try:
            options[option.strip()] = json.loads(value)
        except json.JSONDecodeError as error:
            expected = "NAME(OPTION=VALUE,...) with values in JSON"
            raise IrouterError(f"policy `{text}`: cannot read `{assignment}`, expected {expected}") from error
    return PolicyChoice(matched["name"].strip(), options)


def _with_weights(choice: PolicyChoice) -> PolicyChoice:
    """The choice with the file of weights that it names in it, so that any process can run it."""
    file = choice.options.get(_WEIGHTS)
    if not isinstance(file, str):
        return choice
    try:
        content = base64.b64encode(Path(file).read_bytes()).decode()
    except OSError as error:
        raise IrouterError(f"policy `{choice.label}`: {error}; expected a file of weights") from error
    return PolicyChoice(choice.name, {**choice.options, _WEIGHTS: content}, as_label=choice.label)


def _equalised(choice: PolicyChoice) -> PolicyChoice:
    """The choice with its `equalised:` spelled out as options, under the name by which it was chosen."""
    queue, prefix, name = choice.name.partition("equalised:")
    if not prefix:
        return choice
    if name not in registry():
        raise unknown("policy", name, registry(), "`irouter policies` lists them")
    options = {**registry()[name].equalised, **constants_of(name), **choice.options}
    return PolicyChoice(queue + name, options, as_label=choice.label)


def choose(
    policies: Sequence[str | PolicyFunction | PolicyChoice] | None, reference: str
) -> list[PolicyChoice]:
    """The policies without repetition, the reference first where it is not among them.

    Args:
        policies: Names such as `least_work` or `central_shortest(ageing=0.05)`, and functions; every policy of the
            package without them.
        reference: The policy that ratios are against.

    Raises:
        IrouterError: For options that cannot be read, or a function that has the name of another policy.
    """
    names = list(registry())
    chosen = [choice_of(policy) for policy in (names if policies is None else policies)]
    if not chosen:
        raise IrouterError("no policies: expected at least one")
    by_label: dict[str, PolicyChoice] = {}
    for choice in chosen:
        if choice.function is not None and (choice.name in names or choice.name in by_label):
            raise IrouterError(f"the function `{choice.name}` has the name of another policy")
        by_label.setdefault(choice.label, choice)
    against = choice_of(reference)
    if against.label not in by_label:
        by_label = {against.label: against, **by_label}
    return list(by_label.values())
