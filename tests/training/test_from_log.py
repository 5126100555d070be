"""Training from a fleet's own log, on logs of some seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import irouter
from irouter import IrouterError, profiles
from irouter.cli import main
from irouter.evaluation import read_trace
from irouter.training import read_weights, train_from_log, weights
from irouter.training.fleet import HISTORY, LOGGED, fleet, parts_of
from irouter.training.fleet_log import read_fleet_log
from irouter.training.fleet_profile import fleet_profile

PROFILE = "llama-2-7b@v100-paper"
INSTANCES = 2


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a fleet of two instances logs at a load that makes requests wait."""
    run = irouter.simulate(
        "paper-main",
        policy="least_requests",
        instances=INSTANCES,
        rate=9.0,
        requests=700,
        dispatch_delay_s=0.0,
    )
    frame = run.to_polars()
    path = tmp_path_factory.mktemp("logs") / "requests.csv"
    frame.select(
        timestamp=pl.col("arrival_s"),
        prompt_tokens=pl.col("input_tokens"),
        output_tokens=pl.col("output_tokens"),
        ttft_seconds=pl.col("first_token_s") - pl.col("arrival_s"),
        e2e_seconds=pl.col("finished_s") - pl.col("arrival_s"),
        instance=pl.col("instance"),
        app=pl.Series(["chat" if row % 3 else "search" for row in range(frame.height)]),
    ).write_csv(path)
    return path


@pytest.fixture(scope="module")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The profile of that fleet."""
    profile = profiles.load(PROFILE)
    profile["kv"]["blocks"] = 575
    path = tmp_path_factory.mktemp("profiles") / "fleet.json"
    path.write_text(json.dumps(profile))
    return str(path)


def without_times(log: Path, folder: Path) -> Path:
    path = folder / "trace.parquet"
    pl.read_csv(log).select("timestamp", "prompt_tokens", "output_tokens").write_parquet(path)
    return path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["train", *arguments])
    code = ended.value.code
    assert isinstance(code, int)
    return code


def report_of(file: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(file.with_suffix(".report.json").read_text())
    return report


def test_the_profile_of_the_fleet_is_found_again_in_its_latencies(log: Path, small_cache: str) -> None:
    fleet_log = read_fleet_log(log)
    assert (fleet_log.instances, fleet_log.trace.application_names) == (INSTANCES, ("search", "chat"))
    found = fleet_profile(fleet_log, parts_of(fleet_log.trace)[0], small_cache, INSTANCES, seed=0)
    assert found.requests > 200
    assert found.held_out_error_percent["E2E"] < 10.0
    assert not found.notes, "nothing was taken for granted"
    assert found.profile["step_time"]["form"]["constant_ms"] == pytest.approx(34.0, rel=0.2)


def test_a_profile_that_does_not_meet_the_log_is_not_to_be_trusted(log: Path, small_cache: str) -> None:
    fleet_log = read_fleet_log(log)
    trace = fleet_log.trace
    assert trace.e2e_s is not None
    assert trace.ttft_s is not None
    # Times that have nothing to do with the requests.
    shuffled = np.random.default_rng(1).permutation(len(trace))
    trace.e2e_s[:], trace.ttft_s[:] = trace.e2e_s[shuffled], trace.ttft_s[shuffled]
    found = fleet_profile(fleet_log, trace, small_cache, INSTANCES, seed=0)
    assert any("not to be trusted" in note for note in found.notes)


def test_the_history_of_a_log_knows_no_request_before_it_has_ended(log: Path, small_cache: str) -> None:
    trace = read_fleet_log(log).trace

    def told(last_output: int) -> Any:
        outputs = trace.output_tokens.copy()
        outputs[600:] = last_output
        changed = irouter.evaluation.Trace(
            "changed", "test", trace.arrival_s, trace.input_tokens, outputs, application=trace.application
        )
        workloads = fleet(
            changed, profile=Path(small_cache), instances=2, predictor=None, loads=None, settings={}
        )
        assert workloads.predictor == HISTORY
        later = workloads.later[0].trace
        assert later is not None
        assert later.predicted_quantiles is not None
        return later.predicted_quantiles

    few, many = told(1), told(900)
    assert np.array_equal(few, many), "the last hundred are told of when nobody arrives any more"
    assert len(np.unique(few[:, 0])) > 2, "prompts and applications tell apart"


def test_weights_that_are_better_are_written_with_what_was_measured(
    log: Path, small_cache: str, tmp_path: Path
) -> None:
    out = tmp_path / "policy.safetensors"
    # Weights that hold whatever can wait: anything is better.
    worst = weights.start((), 0)
    worst["network.0.bias"][1] = -1e6
    out.write_bytes(weights.to_bytes(worst, {}))
    arguments = ["--from-log", str(log), "--profile", small_cache, "--generations", "1", "--out", str(out)]
    code = run(*arguments)
    report = report_of(out)
    assert {rival["policy"] for rival in report["validation"]["rivals"]} == {
        "least_impact",
        "ordered_hold",
        "least_work",
        "guided",
        out.name,
    }
    replaced = [rival for rival in report["validation"]["rivals"] if rival["is_replaced"]]
    assert [rival["policy"] for rival in replaced] == [out.name]
    assert replaced[0]["is_beaten"]
    assert replaced[0]["lead"][1] > 0.0
    beaten = all(rival["is_beaten"] for rival in report["validation"]["rivals"])
    assert code == (0 if beaten else 3)
    kept = np.array_equal(read_weights(out)["network.0.bias"], worst["network.0.bias"])
    assert kept != beaten, "written exactly where nothing is better"
    assert not out.with_suffix(".jsonl").exists(), "the search is over"


def test_a_policy_that_is_better_is_not_replaced(
    log: Path, small_cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "policy.safetensors"
    out.write_bytes(weights.to_bytes(weights.shipped(), {}))
    before = out.read_bytes()
    # No generation: the candidate is the shipped file itself, which is not better than itself.
    code = run(
        "--from-log", str(without_times(log, tmp_path)), "--profile", small_cache, "--instances", "2",
        "--generations", "0", "--out", str(out),
    )  # fmt: skip
    assert code == 3
    assert out.read_bytes() == before
    said = capsys.readouterr()
    assert "refused: " in said.err
    assert "guided is as good" in said.err
    assert f"{out} stays as it is" in said.err
    report = report_of(out)
    assert not report["validation"]["accepted"]
    leads = {rival["policy"]: rival["lead"][0] for rival in report["validation"]["rivals"]}
    assert leads["guided"] == leads[out.name] == 0.0
    assert any("Step times are those of" in note for note in report["notes"])


def test_the_same_log_and_seed_give_the_same_weights(log: Path, small_cache: str, tmp_path: Path) -> None:
    trace = without_times(log, tmp_path)
    found = [
        train_from_log(
            trace,
            tmp_path / f"{threads}.safetensors",
            profile=small_cache,
            instances=2,
            generations=1,
            threads=threads,
        )
        for threads in (1, 2)
    ]
    assert weights.digest(found[0].tensors) == weights.digest(found[1].tensors)
    assert found[0].verdict.to_data() == found[1].verdict.to_data()


def test_what_is_missing_is_asked_for(log: Path, small_cache: str, tmp_path: Path) -> None:
    trace, out = without_times(log, tmp_path), tmp_path / "policy.safetensors"
    with pytest.raises(IrouterError, match="does not say how many instances there are, expected --instances"):
        train_from_log(trace, out, profile=small_cache)
    with pytest.raises(IrouterError, match=r"no `ttft_seconds` and `e2e_seconds`.* expected --profile"):
        train_from_log(trace, out, instances=2)
    out.write_bytes(
        weights.to_bytes(weights.shipped(), {}).replace(b'"observation_version', b'"observation_versiom')
    )
    with pytest.raises(IrouterError, match="cannot be compared with"):
        train_from_log(trace, out, profile=small_cache, instances=2)


def test_a_decision_log_is_a_fleet_log(tmp_path: Path, small_cache: str) -> None:
    path = tmp_path / "decisions.jsonl"
    with irouter.Router(["http://a", "http://b"], "least_work", profile=small_cache, log=path) as router:
        for number in range(30):
            lease = router.try_route(prompt_tokens=100 + number, max_tokens=50, tenant="ab"[number % 2])
            assert lease is not None
            lease.first_token()
            if number == 7:
                lease.fail("an example")
            else:
                lease.finish(tokens=10 + number)
    found = read_fleet_log(path)
    assert (len(found.trace), found.left_out, found.instances) == (29, 1, 2)
    assert found.profile is not None
    assert json.loads(found.profile)["kv"]["blocks"] == 575
    assert found.trace.input_tokens[:3].tolist() == [100, 101, 102]
    assert found.trace.output_tokens[-1] == 39
    assert found.trace.tenant is not None
    assert found.trace.tenant.max() == 1
    assert found.trace.held_s is not None
    assert found.trace.ttft_s is not None
    assert found.trace.e2e_s is not None
    assert (found.trace.held_s <= found.trace.ttft_s).all()
    assert (found.trace.ttft_s <= found.trace.e2e_s).all()
    path.write_text(path.read_text().replace('"instance":0,"waited_s"', '"waited_s"'))
    with pytest.raises(IrouterError, match=r"decisions.jsonl: line \d+: it lacks or mistakes 'instance'"):
        read_fleet_log(path)


def test_lengths_that_a_log_has_are_what_its_predictor_said(log: Path, small_cache: str) -> None:
    trace = read_trace(log)
    said = np.tile(np.linspace(1.0, 500.0, len(irouter._core.LENGTH_LEVELS)), (len(trace), 1))
    known = irouter.evaluation.Trace(
        "known", "test", trace.arrival_s, trace.input_tokens, trace.output_tokens, predicted_quantiles=said
    )
    workloads = fleet(known, profile=Path(small_cache), instances=2, predictor=None, loads=[0.9], settings={})
    assert workloads.predictor == LOGGED
    assert workloads.earlier[0].settings["load"] == 0.9
    first, second = (workloads.training(generation)[0].settings["first_seed"] for generation in (0, 1))
    assert (first, second) == (0, 4)
