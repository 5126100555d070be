"""Our rules decide as the packages that they were written after."""

import pytest

from conformance.cases import CASES, DRAWS, REQUESTS, Case
from conformance.peers import environment

QUICK_REQUESTS = 150

QUICK = [case for case in CASES if case.quick]
IN_FULL = [case for case in CASES if not case.is_random]
RANDOM = [case for case in CASES if case.is_random]


def named(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def needs(case: Case) -> None:
    if not (environment(case.peer.package) / "bin/python").exists():
        pytest.skip(f"{environment(case.peer.package).name} is absent; `make peers` creates it")


@named(QUICK)
def test_a_short_run_decides_as_the_package_does(case: Case) -> None:
    needs(case)
    outcome = case.run(QUICK_REQUESTS).outcome
    assert outcome.holds, outcome


@pytest.mark.real
@pytest.mark.timeout(600)
@named(IN_FULL)
def test_decisions_are_those_of_the_package(case: Case) -> None:
    needs(case)
    outcome = case.run(REQUESTS).outcome
    assert outcome.holds, outcome


@pytest.mark.real
@pytest.mark.timeout(600)
@named(RANDOM)
def test_draws_have_the_distribution_of_the_package(case: Case) -> None:
    needs(case)
    # Most packages cannot be seeded: one sample in a hundred is beyond 1 % by chance, two in a row hardly.
    outcomes = [case.run(DRAWS).outcome]
    if not outcomes[0].holds:
        outcomes.append(case.run(DRAWS).outcome)
    assert outcomes[-1].holds, outcomes


def test_every_package_and_every_rule_has_its_own_name() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert {case.peer.package for case in QUICK} == {case.peer.package for case in CASES}
