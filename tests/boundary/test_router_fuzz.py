"""Random events at the compiled router; `tools/fuzz_router.py` throws a million."""

from fuzz_router import run


def test_whatever_comes_nothing_panics_and_nothing_leaks() -> None:
    counts = run(10_000, seed=1)
    assert counts["events"] == 10_000
    assert counts["dispatched"] > 500
    assert counts["refused"] > 500, "bad events are among them"
