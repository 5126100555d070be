"""Predictions in the form that Dynamo takes, handed to the real package."""

from typing import Any

import numpy as np
import pytest

from conformance.cases import dynamo
from conformance.peers import PeerError, environment
from irouter.prediction import LENGTH_LEVELS, LengthDistribution

needs_dynamo = pytest.mark.skipif(
    not (environment("dynamo") / "bin/python").exists(), reason="`make peers` installs ai-dynamo-runtime"
)


def lengths(*tokens: float) -> LengthDistribution:
    return LengthDistribution(np.array(tokens)[:, None] * np.linspace(0.5, 1.5, len(LENGTH_LEVELS)))


def placed_third(hints: list[Any]) -> tuple[list[int], list[int]]:
    """Where two requests go that have these hints, and where a third may go after each has produced two blocks."""
    prompts = [list(range(100 * request, 100 * request + 32)) for request in range(len(hints) + 1)]
    events: list[dict[str, Any]] = []
    for request, hint in enumerate(hints):
        submit = {
            "event": "submit",
            "request": request,
            "tokens": prompts[request],
            "expected_output_tokens": hint,
        }
        events += [submit, {"event": "first_token", "request": request}]
    events += [{"event": "progress", "request": request, "tokens": 32} for request in range(len(hints))]
    events.append({"event": "submit", "request": len(hints), "tokens": prompts[-1]})
    _, placed = dynamo(hears_progress=True).run(2, events)
    return [first for first, *_ in placed[:-1]], sorted(placed[-1])


def test_expected_lengths_are_whole_numbers_of_at_least_one() -> None:
    told = lengths(0.2, 100.3, 5000.0)
    assert all(type(tokens) is int for tokens in told.expected_output_tokens)
    assert told.expected_output_tokens == [1, *(round(length) for length in told.expected[1:])]


@needs_dynamo
@pytest.mark.timeout(120)
def test_dynamo_keeps_away_from_the_request_that_is_predicted_to_go_on() -> None:
    homes, third = placed_third(lengths(2000.0, 40.0).expected_output_tokens)
    assert sorted(homes) == [0, 1]
    assert third == [homes[1]]
    # Without hints both instances are equal, and draws show either.
    assert placed_third([None, None])[1] == [0, 1]


@needs_dynamo
@pytest.mark.timeout(120)
def test_dynamo_refuses_an_expected_length_that_is_not_whole() -> None:
    with pytest.raises(PeerError, match="'float' object cannot be interpreted as an integer"):
        placed_third(lengths(2000.0, 40.0).expected.tolist())
