"""Commands: what they print and write, and how bad input ends."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from irouter import profiles, scenarios
from irouter.cli import main
from irouter.evaluation.registry import registry

QUICK = ["compare", "conversation", "--requests", "60", "--seeds", "2"]
FIGURES = set(
    """
    e2e_mean_s e2e_p50_s e2e_p90_s e2e_p99_s ttft_mean_s ttft_p50_s ttft_p90_s ttft_p99_s tbt_mean_s
    tbt_p99_s tpot_mean_s makespan_s router_wait_mean_s router_wait_max_s queue_wait_mean_s
    slowdown_p99 e2e_p99_by_output_quartile_s preemptions throughput_tok_s goodput completed failed
    dropped
    """.split()  # noqa: SIM905 - a list of names reads best as words
)


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    code = ended.value.code
    return code if isinstance(code, int) else 0


def test_compare_prints_every_policy_and_the_predictor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK) == 0
    printed = capsys.readouterr().out
    assert "predictor noisy:0.45" in printed
    for name in registry():
        assert printed.count(f"\n{name} ") == 3


def test_the_json_has_every_figure_of_every_policy(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert run(*QUICK, "--policies", "random,central_fcfs", "--json", path) == 0
    report = json.loads(path.read_text(encoding="utf-8"))
    assert (report["scenario"], report["predictor"], report["reference"]) == (
        "conversation",
        "noisy:0.45",
        "round_robin",
    )
    assert sum(report["workload"]["requests"]) + sum(report["workload"]["warm_up"]) == 120
    assert list(report["policies"]) == ["central_fcfs", "random", "round_robin"]
    for policy, figures in report["policies"].items():
        assert figures.keys() >= FIGURES
        for key in FIGURES:
            low, high = figures["ci95"]["e2e_mean_s"]
            assert low <= figures["e2e_mean_s"] <= high
            assert key in figures["ratio"]
        assert figures["completed"] == sum(report["workload"]["requests"])
        value, low, high = figures["ratio"]["e2e_mean_s"]
        assert low <= value <= high
        assert (value == 1.0) == (policy == "round_robin")


def test_the_json_is_the_same_in_another_process_and_with_other_threads(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert run(*QUICK, "--sweep", "0.5,1.1", "--threads", "1", "--json", path) == 0
    arguments = [
        sys.executable,
        "-m",
        "irouter.cli",
        *QUICK,
        "--sweep",
        "0.5,1.1",
        "--threads",
        "2",
        "--json",
        "-",
    ]
    other = subprocess.run(arguments, check=True, capture_output=True)  # noqa: S603 - our own command
    assert other.stdout == path.read_bytes()


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert run(*QUICK, "--sweep", "0.5,0.9", "--html", path) == 0
    page = path.read_text(encoding="utf-8")
    assert "<script src" not in page
    assert "<link" not in page
    assert "<img" not in page
    for plot in ("gains", "mean-and-tail", "distributions", "who-pays", "occupancy", "against-load"):
        assert f'id="{plot}"' in page
    for name in registry():
        assert f"</span>{name}</td>" in page


def test_a_policy_that_learns_says_how_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its error on held-out requests is in the JSON, under the tables and on the page."""
    json_file, page = tmp_path / "figures.json", tmp_path / "report.html"
    arguments = ("compare", "conversation", "--requests", "400", "--seeds", "2")
    policies = ("--policies", "llmd_predicted_latency,queued:llmd_predicted_latency,random")
    assert run(*arguments, *policies, "--json", json_file, "--html", page) == 0
    printed = " ".join(capsys.readouterr().out.split())
    report = json.loads(json_file.read_text(encoding="utf-8"))["policies"]
    assert "figures" not in report["random"]
    for policy in ("llmd_predicted_latency", "queued:llmd_predicted_latency"):
        figures = report[policy]["figures"]
        assert figures["trainings"] >= 1
        assert 0 < figures["ttft_median_mape_percent"] < figures["ttft_mape_percent"] < 200
        line = f"{policy}: decisions before model {figures['decisions_before_model']:,.1f}"
        assert line in printed
        assert line in page.read_text(encoding="utf-8")


def test_simulate_writes_one_row_per_request(tmp_path: Path) -> None:
    path = tmp_path / "requests.parquet"
    assert (
        run("simulate", "conversation", "--policy", "least_requests", "--requests", "50", "--out", path) == 0
    )
    table = pl.read_parquet(path)
    assert table.height >= 50
    assert (table["finished_s"] > table["arrival_s"]).all()
    assert set(table["outcome"]) == {"completed"}


def test_a_trace_is_compared_without_a_scenario(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"arrival_s": [0.1 * i for i in range(40)], "input_tokens": [100] * 40, "output_tokens": [20] * 40}
    pl.DataFrame(rows).write_csv(tmp_path / "mine.csv")
    assert run("compare", "--trace", tmp_path / "mine.csv", "--policies", "random") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("mine · 4 x llama-3.1-8b@a100")
    assert "one seed: no intervals" in printed


@pytest.mark.parametrize(
    "command",
    [[], ["compare"], ["capacity"], ["simulate"], ["scenarios"], ["policies"], ["profiles"], ["calibrate"]],
)
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command, "--help") == 0
    assert "Usage: irouter" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["compare", "capacity", "simulate", "calibrate"])
def test_the_long_commands_give_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    printed = capsys.readouterr().out
    assert printed.count(f"irouter {command} ") >= 2


def test_lists_name_everything(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, names in (
        (["scenarios"], scenarios.names()),
        (["policies"], list(registry())),
        (["profiles", "list"], profiles.names()),
    ):
        assert run(*arguments) == 0
        printed = capsys.readouterr().out
        assert names
        assert [name for name in names if f"\n{name} " not in printed] == []


def test_a_profile_is_shown_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("profiles", "show", "llama-3.1-8b@h100") == 0
    assert json.loads(capsys.readouterr().out) == profiles.load("llama-3.1-8b@h100")


def test_capacity_prints_and_writes_every_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "capacity.json"
    search = ["--requests", "60", "--windows", "2", "--probes", "3"]
    chosen = ["--policies", "random,central_fcfs(lookahead_requests=0)"]
    assert run("capacity", "conversation", *search, *chosen, "--json", path) == 0
    printed = capsys.readouterr().out
    report = json.loads(path.read_text(encoding="utf-8"))
    assert sorted(report["policies"]) == ["central_fcfs(lookahead_requests=0)", "random", "round_robin"]
    for name, figures in report["policies"].items():
        assert f"{name} " in printed
        assert f"{figures['rate']:,.2f}" in printed
        assert len(figures["probes"]) == 6
    assert "requests/s" in printed
    assert run("capacity", "conversation", *search, *chosen, "--json", "-") == 0
    assert capsys.readouterr().out == path.read_text(encoding="utf-8")


BAD = [
    (["compare"], "nothing to compare on: name a scenario"),
    (["compare", "convrsation"], "unknown scenario `convrsation`; did you mean `conversation`?"),
    (["compare", "azure-conv"], "the scenario `azure-conv` replays a trace: give its file: "),
    ([*QUICK, "--policies", "rund_robin"], "unknown policy `rund_robin`; did you mean `round_robin`?"),
    (
        [*QUICK, "--policies", "central_shortest(aging=1.0)"],
        "unknown policy option `aging`; did you mean `ageing`?",
    ),
    ([*QUICK, "--policies", ","], "no policies: expected at least one"),
    (
        [*QUICK, "--policies", "external:no-such-program --fast"],
        "`policy` is external:no-such-program --fast, expected a program; there is no `no-such-program`",
    ),
    (
        [*QUICK, "--policies", "external:python(patience=1)"],
        "unknown policy option `patience`",
    ),
    ([*QUICK, "--ray", "local", "--threads", "2"], "2 threads of this machine beside another executor"),
    ([*QUICK, "--ray", "127.0.0.1:1"], "no Ray cluster at `127.0.0.1:1`: "),
    ([*QUICK, "--reference", "rr"], "unknown policy `rr`"),
    (
        [*QUICK, "--profile", "llama-3.1-8b@h10"],
        "unknown profile `llama-3.1-8b@h10`; did you mean `llama-3.1-8b@h100`?",
    ),
    ([*QUICK, "--router-profile", "fited"], "unknown profile `fited`"),
    ([*QUICK, "--predictor", "nosy:0.45"], "unknown predictor `nosy`; did you mean `noisy`?"),
    (
        [*QUICK, "--predictor", "noisy:2"],
        "`predictor` is noisy:2, expected `noisy:TAU` with a number from 0.01 to 0.95",
    ),
    (
        [*QUICK, "--conditions", "headlin"],
        "settings: `conditions` is 'headlin', expected `exact` or `headline`",
    ),
    ([*QUICK, "--instances", "0"], "`instances` is 0, expected at least 1"),
    ([*QUICK, "--instances", "-1"], "settings: `instances` is -1, expected a whole number, zero or more"),
    ([*QUICK, "--seeds", "0"], "`seeds` is 0, expected at least 1"),
    ([*QUICK, "--requests", "0"], "`requests` is 0, expected at least 1"),
    ([*QUICK, "--load", "nan"], "settings: `load` is nan, expected finite numbers"),
    ([*QUICK, "--load", "-1"], "`load` is -1, expected a positive number"),
    ([*QUICK, "--rate", "1", "--load", "1"], "`load` is given with `rate`, expected one of the two"),
    ([*QUICK, "--step-noise", "-0.5"], "`step_noise` is -0.5, expected a number from 0 to 1"),
    ([*QUICK, "--slo-ttft", "-1"], "`slo.ttft_seconds` is -1, expected a finite number, at least 0"),
    ([*QUICK, "--set", "staleness=5"], "settings: unknown setting `staleness`; did you mean `staleness_s`?"),
    ([*QUICK, "--set", "staleness_s"], "--set staleness_s: Expected '=' after a key"),
    ([*QUICK, "--set", "aborts={share=2.0}"], "`aborts.share` is 2, expected a share from 0 to 1"),
    (
        [*QUICK, "--set", "crashes=[{instance=9, at_s=1.0, down_s=1.0}]"],
        "`crashes.instance` is 9, expected an instance from 0 to 3",
    ),
    ([*QUICK, "--set", "clients={count=0, think_time_s=1.0}"], "`clients.count` is 0, expected at least 1"),
    (
        [*QUICK, "--load", "0.5", "--set", "clients={count=9, think_time_s=1.0}"],
        "`clients` is given with a rate or a load, expected one of the two",
    ),
    (
        [*QUICK, "--set", "slow=[{instance=0, factor=5000.0}]"],
        "`slow.factor` is 5000, expected a factor from 1/1024 to 1024",
    ),
    (
        [*QUICK, "--set", "router_profile_error={step_time=0.0}"],
        "`router_profile_error.step_time` is 0, expected a factor from 0.01 to 100",
    ),
    (
        ["capacity", "conversation", "--target", "1.5"],
        "`target` is 1.5, expected a share above 0 and at most 1",
    ),
    (
        ["capacity", "conversation", "--set", "load=0.5"],
        "`load` is given to a search for the arrival rate, expected it left out",
    ),
    ([*QUICK, "--sweep", "1:0:0.1"], "--sweep 1:0:0.1: expected FROM:TO:STEP"),
    ([*QUICK, "--sweep", "a"], "--sweep a: expected FROM:TO:STEP"),
    ([*QUICK, "--sweep", "0:1:0.1"], "--sweep 0:1:0.1: expected FROM:TO:STEP"),
    ([*QUICK, "--json", "nowhere/f.json"], "no folder nowhere for f.json"),
    ([*QUICK, "--trace", "nowhere.csv"], "no file nowhere.csv"),
    (["simulate", "conversation", "--policy", "rand", "--out", "r.parquet"], "unknown policy `rand`"),
    (
        ["simulate", "conversation", "--policy", "random", "--out", "r.csv"],
        "--out r.csv: expected a file that ends in .parquet",
    ),
    (["profiles", "show", "llama"], "unknown profile `llama`"),
    (["scenarios", "paper"], "unknown scenario `paper`"),
]


@pytest.mark.parametrize(
    ("arguments", "complaint"), BAD, ids=[" ".join(arguments[-2:]) for arguments, _ in BAD]
)
def test_bad_input_ends_with_one_line_and_code_2(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {complaint}")
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["compare", "--lod", "1"], ["compare", "--load", "high"], ["comprae"]])
def test_a_bad_command_line_ends_with_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_prompt_beyond_the_context_is_an_error_or_dropped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"arrival_s": [0.0, 1.0, 2.0], "input_tokens": [100, 5000, 100], "output_tokens": [10, 10, 10]}
    pl.DataFrame(rows).write_csv(tmp_path / "long.csv")
    common = [
        "compare",
        "--trace",
        str(tmp_path / "long.csv"),
        "--profile",
        "llama-2-7b@a100",
        "--policies",
        "random",
    ]
    assert run(*common) == 2
    complaint = capsys.readouterr().err
    assert "4096" in complaint
    assert "1 of 3 do not fit, `drop_too_long` leaves them out" in complaint
    assert run(*common, "--drop-too-long") == 0
    assert "1 requests beyond the profile's context were dropped" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["typer", "rich", "polars"])
def test_a_missing_extra_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert run("policies") == 2
    expected = (
        f'error: the irouter command needs the package `{package}`: run pip install "irouter-llm[cli]"\n'
    )
    assert capsys.readouterr().err == expected


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m irouter.cli profiles show llama-3.1-8b@h100 | head -c 1"
    done = subprocess.run(command, shell=True, check=True, capture_output=True, text=True)  # noqa: S602 - our own command
    assert (done.stdout, done.stderr) == ("{", "")
