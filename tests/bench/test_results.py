"""Results: their schema, their verification, what differs between two, and the commands around them."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from irouter import bench
from irouter._core import IrouterError
from irouter.bench.result import schema, schema_problems, sealed
from irouter.cli import main

ROOT = Path(__file__).parents[2]


def command(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *map(str, arguments)])
    code = ended.value.code
    return code if isinstance(code, int) else 0


def changed(result: bench.Result, change: Callable[[Any], object], *, seal: bool = False) -> bench.Result:
    """The result with a change; with `seal`, under a digest that fits it."""
    data = copy.deepcopy(dict(result.data))
    change(data)
    return (
        sealed({key: value for key, value in data.items() if key != "digest"}) if seal else bench.Result(data)
    )


def faster(data: Any) -> None:
    data["points"][0]["policies"]["least_work"]["e2e_mean_s"] *= 0.9


def faster_window(data: Any) -> None:
    data["points"][0]["windows"]["least_work"][1][0] *= 0.9


def fewer_windows(data: Any) -> None:
    point = data["points"][0]
    del point["windows"]["least_work"][3:]


def better_probe(data: Any) -> None:
    data["capacity"][0]["windows"]["least_work"][1][0][1] *= 0.5


def other_scenario(data: Any) -> None:
    data["points"][0]["scenario_sha256"] = "0" * 64


def test_a_result_is_as_the_published_schema_says(result: bench.Result) -> None:
    published = json.loads((ROOT / "docs" / "bench-result.schema.json").read_text(encoding="utf-8"))
    assert published == schema()
    data = json.loads(result.to_json())
    assert schema_problems(data) == []
    del data["points"][0]["policies"]["random"]["goodput"]
    assert schema_problems(data) == ["$.points[0].policies.random: 'goodput' is a required property"]


def test_a_result_that_holds_is_verified_with_a_run_of_every_policy(
    result: bench.Result, tiny: Path, traces: Path
) -> None:
    verification = bench.verify(result, suite=tiny, traces=traces)
    assert verification.differences == ()
    assert verification.remarks == ()
    policies = [policy for _, policy, _ in verification.cells]
    assert sorted(policies) == sorted(result.points["chat"]["policies"])
    every = bench.verify(result, suite=tiny, traces=traces, sample=1000)
    runs = sum(len(rows) for entry in result.entries.values() for rows in entry["windows"].values())
    assert (every.differences, len(every.cells)) == ((), runs)


def test_points_whose_trace_is_not_given_are_said_not_to_be_repeated(
    result: bench.Result, tiny: Path
) -> None:
    verification = bench.verify(result, suite=tiny)
    assert verification.remarks == ("not run again, its trace is not given: replay",)
    assert verification.differences == ()
    assert {point for point, _, _ in verification.cells} <= {"chat", "aborts/20 %", "most"}


@pytest.mark.parametrize(
    ("change", "seal", "found"),
    [
        (faster, False, ("", "", "digest")),
        (faster, False, ("chat", "least_work", "e2e_mean_s")),
        (faster, True, ("chat", "least_work", "e2e_mean_s")),
        (faster_window, True, ("chat", "least_work", "e2e_mean_s of window 1")),
        (fewer_windows, True, ("chat", "least_work", "windows")),
        (other_scenario, True, ("chat", "", "scenario_sha256")),
        (better_probe, True, ("most", "least_work", "probes[0][1] of window 1")),
    ],
)
def test_what_was_changed_is_named(
    result: bench.Result,
    tiny: Path,
    change: Callable[[Any], object],
    seal: bool,  # noqa: FBT001 - a parameter of the test
    found: tuple[str, str, str],
) -> None:
    verification = bench.verify(changed(result, change, seal=seal), suite=tiny, sample=1000)
    assert found in {
        (difference.point, difference.policy, difference.key) for difference in verification.differences
    }


def test_a_difference_has_its_relative_change(result: bench.Result) -> None:
    (difference,) = bench.diff(result, changed(result, faster))
    assert (difference.point, difference.policy, difference.key) == ("chat", "least_work", "e2e_mean_s")
    assert difference.change == pytest.approx(-0.1)
    assert bench.diff(result, result) == []


def test_points_and_policies_of_one_result_only_are_named(result: bench.Result) -> None:
    def remove(data: Any) -> None:
        del data["points"][1]
        del data["points"][0]["policies"]["random"]

    found = [
        (each.point, each.policy, each.one, each.other)
        for each in bench.diff(result, changed(result, remove))
    ]
    assert found == [("chat", "random", "present", None), ("replay", "", "present", None)]


def test_a_file_that_is_no_result_is_named_with_its_first_bad_value(
    tmp_path: Path, result: bench.Result
) -> None:
    path = tmp_path / "r.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(IrouterError, match=r"^r\.json: not JSON: "):
        bench.read(path)
    changed(result, lambda data: data.update(format="irouter-bench-result-2")).write(path)
    with pytest.raises(IrouterError, match=r"^r\.json: \$\.format: 'irouter-bench-result-1' was expected$"):
        bench.read(path)
    with pytest.raises(IrouterError, match=r"^no file .*missing\.json$"):
        bench.read(tmp_path / "missing.json")


def test_run_verify_and_diff_as_commands(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other, page = tmp_path / "one.json", tmp_path / "other.json", tmp_path / "one.html"
    arguments: list[str | Path] = [
        "run",
        "--suite",
        tiny,
        "--quick",
        "--policies",
        "random,least_work",
        "--json",
        one,
        "--html",
        page,
    ]
    assert command(*arguments) == 0
    printed = capsys.readouterr().out
    assert "skipped replay: no trace in --traces; AzureLLMInferenceTrace_conv.csv" in printed
    assert "predictor noisy:0.45" in printed
    assert f"digest {json.loads(one.read_text())['digest']}" in printed

    assert command("verify", one, "--suite", tiny) == 0
    assert "3 runs of 3 policies repeated with the same figures" in capsys.readouterr().out
    assert command("diff", one, one) == 0
    changed(bench.read(one), faster).write(other)
    assert command("verify", other, "--suite", tiny) == 1
    assert "e2e_mean_s" in capsys.readouterr().out
    assert command("diff", one, other) == 1
    printed = capsys.readouterr().out
    assert "least_work" in printed
    assert "-10.00%" in printed


def test_the_page_needs_nothing_else_and_names_what_was_skipped(
    tiny: Path, tmp_path: Path, result: bench.Result
) -> None:
    path = tmp_path / "report.html"
    result.write_html(path)
    page = path.read_text(encoding="utf-8")
    for part in ("<script src", "<link", "<img"):
        assert part not in page
    for plot in ("frontiers", "who-pays", "capacity", "sweep-aborts", "speeds"):
        assert f'id="{plot}"' in page
    for heading in ("Leaderboard, predictor noisy:0.45", "random is slow to simulate and ran on 2 of 3"):
        assert heading in page
    skipping = bench.run(tiny, policies=["random"], mode="quick")
    skipping.write_html(path)
    assert "skipped: replay (A trace), no trace was given" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "--quick", "--full"], "--quick with --full: expected one of the two"),
        (["run", "--json", "nowhere/r.json"], "no folder nowhere for r.json"),
        (
            ["run", "--points", "conversation-0.8"],
            "unknown point `conversation-0.8`; did you mean `conversation-0.9`?",
        ),
        (["verify", "nowhere.json"], "no file nowhere.json"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert printed.err.startswith(f"error: {complaint}")
