"""Programs of their own in the benchmark: measured like any policy, and never started by who checks a result."""

import sys
from pathlib import Path

import pytest

from irouter import bench
from irouter._core import IrouterError
from irouter.bench.leaderboard import failures, leaderboard
from irouter.cli import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "external_policy.py"


def run(suite: Path, program: Path, *others: str) -> tuple[bench.Result, str]:
    policy = f"external:{sys.executable} {program}"
    points = ["chat", "aborts", "most"]
    return bench.run(suite, policies=[policy, *others], points=points, mode="quick"), policy


def test_a_program_has_the_figures_of_the_rule_that_it_follows(tiny: Path) -> None:
    result, policy = run(tiny, EXAMPLE, "join_shortest_queue")
    for entry in result.entries.values():
        assert entry["policies"][policy] == entry["policies"]["join_shortest_queue"]
    assert policy in {standing.policy for standing in leaderboard(result)}
    assert failures(result) == []


def test_who_verifies_a_result_starts_no_program_and_is_told_so(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, file = tmp_path / "policy.py", tmp_path / "result.json"
    program.write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    result, policy = run(tiny, program)
    result.write(file)
    program.write_text(f"open({str(tmp_path / 'started')!r}, 'w')", encoding="utf-8")
    verification = bench.verify(bench.read(file), suite=tiny, sample=1000)
    assert verification.differences == ()
    assert verification.remarks == (f"not run again, verify starts no program that a result names: {policy}",)
    assert {policy for _, policy, _ in verification.cells} == {"round_robin"}
    with pytest.raises(SystemExit) as ended:
        main(["bench", "verify", str(file), "--suite", str(tiny)])
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert "verify starts no program" in printed
    assert "runs of 1 policies repeated" in printed
    assert not (tmp_path / "started").exists()


def test_a_program_that_is_not_there_is_refused_before_the_first_run(tiny: Path) -> None:
    def stop(_done: int, _total: int) -> None:
        raise AssertionError

    with pytest.raises(IrouterError, match="there is no `no-such-program`"):
        bench.run(tiny, policies=["external:no-such-program"], points=["chat"], progress=stop)


def test_decisions_that_failed_are_said_above_the_figures(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text("", encoding="utf-8")
    policy, page = f"external:{sys.executable} {tmp_path}/broken.py", tmp_path / "page.html"
    arguments = ["bench", "run", "--suite", str(tiny), "--quick"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--points", "chat", "--policies", policy, "--html", str(page)])
    assert not ended.value.code
    assert "failed to decide" in capsys.readouterr().out
    assert "<h2>Policies that failed</h2>" in page.read_text(encoding="utf-8")
