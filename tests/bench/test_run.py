"""Runs of a suite: what runs where, and that figures depend on nothing else."""

from pathlib import Path

import pytest

from irouter import bench
from irouter._core import IrouterError
from irouter.bench import suite_files
from irouter.bench.columns import columns
from irouter.bench.leaderboard import classes, leaderboard
from irouter.evaluation import capacity, compare
from irouter.evaluation.registry import registry

POLICIES = ["random", "least_work", "equalised:smg_least_load", "queued:dynamo_kv"]


def test_every_policy_runs_beside_the_reference_and_slow_ones_on_fewer_windows(result: bench.Result) -> None:
    assert list(result.points) == ["chat", "replay", "aborts/20 %"]
    for name, windows in (("chat", 4), ("replay", 3), ("aborts/20 %", 2)):
        point = result.points[name]
        counts = {policy: len(rows) for policy, rows in point["windows"].items()}
        assert counts == dict.fromkeys(["round_robin", *POLICIES], windows) | {"random": 2}
        assert point["seeds"] == windows
        assert point["policies"].keys() == counts.keys()
    assert result.points["replay"]["trace_sha256"] is not None
    assert result.points["chat"]["trace_sha256"] is None
    assert result.points["aborts/20 %"]["policies"]["least_work"]["aborted"] > 0


def test_the_figures_are_those_of_compare(result: bench.Result) -> None:
    comparison = compare(
        "conversation",
        policies=["least_work", "queued:dynamo_kv"],
        load=0.9,
        requests=60,
        seeds=4,
        conditions="headline",
    )
    for policy, figures in comparison.policies.items():
        assert result.points["chat"]["policies"][policy] == figures
    assert result.points["chat"]["workload"] == comparison.main.results["workload"]


def test_the_capacities_are_those_of_capacity(result: bench.Result) -> None:
    found = capacity(
        "conversation",
        policies=["least_work", "queued:dynamo_kv"],
        requests=60,
        windows=2,
        probes=3,
        conditions="headline",
    )
    entry = result.capacity["most"]
    assert entry["saturation_rate"] == found.saturation_rate
    assert {len(row) for row in entry["windows"]["least_work"]} == {3}
    for policy, figures in found.policies.items():
        measured = entry["policies"][policy]
        assert (measured["rate"], measured["load"], measured["goodput"]) == (
            figures.rate,
            figures.load,
            figures.goodput,
        )
        assert (tuple(measured["ci95"]), tuple(measured["ratio"])) == (figures.ci95, figures.ratio)


def test_threads_do_not_matter(tiny: Path, traces: Path, result: bench.Result) -> None:
    for threads in (1, 5):
        again = bench.run(tiny, policies=POLICIES, traces=traces, threads=threads)
        assert {**again.data, "speed": None} == {**result.data, "speed": None}


def test_a_policys_figures_do_not_depend_on_who_else_runs(tiny: Path, result: bench.Result) -> None:
    alone = bench.run(tiny, policies=["queued:dynamo_kv"], points=["chat"])
    assert list(alone.points) == ["chat"]
    for policy in ("round_robin", "queued:dynamo_kv"):
        assert alone.points["chat"]["policies"][policy] == result.points["chat"]["policies"][policy]
        assert alone.points["chat"]["windows"][policy] == result.points["chat"]["windows"][policy]


def test_the_full_mode_lifts_the_limits(tiny: Path) -> None:
    result = bench.run(tiny, policies=["random"], points=["chat"], mode="full")
    assert len(result.points["chat"]["windows"]["random"]) == 4


def test_a_point_without_its_trace_is_skipped_and_listed(tiny: Path) -> None:
    result = bench.run(tiny, policies=["random"], points=["replay", "chat"], mode="quick")
    assert list(result.points) == ["chat"]
    (skipped,) = result.data["skipped"]
    assert skipped["name"] == "replay"
    assert "Azure/AzurePublicDataset" in skipped["trace_source"]


def test_a_sweep_is_chosen_by_its_name(tiny: Path) -> None:
    result = bench.run(tiny, points=["aborts"], mode="quick")
    assert list(result.points) == ["aborts/20 %"]
    assert list(result.points["aborts/20 %"]["policies"]) == ["round_robin", "least_work"]


def test_speed_is_known_for_every_policy_and_outside_the_digest(result: bench.Result) -> None:
    assert result.data["speed"].keys() == {"round_robin", *POLICIES}
    assert all(speed["requests_per_second"] > 0 for speed in result.data["speed"].values())
    assert bench.Result({**result.data, "speed": {}}).digest() == result.data["digest"]


def test_the_leaderboard_is_by_geometric_means_and_classes_weigh_the_same(result: bench.Result) -> None:
    assert classes(result) == {"chat": ["chat"], "replay": ["replay"]}
    standings = {standing.policy: standing for standing in leaderboard(result)}
    ratios = [
        result.points[name]["policies"]["random"]["ratio"]["e2e_mean_s"][0] for name in ("chat", "replay")
    ]
    overall = standings["random"].overall
    assert overall is not None
    assert overall.mean == pytest.approx((ratios[0] * ratios[1]) ** 0.5, rel=1e-12)
    means = [standing.overall.mean for standing in leaderboard(result) if standing.overall is not None]
    assert means == sorted(means)
    assert len(means) == 5


def test_the_shipped_suite_runs_every_policy_as_shipped_and_every_peer_equalised() -> None:
    suite = suite_files.load("v1")
    peers = [policy.name for policy in registry().values() if policy.origin == "peer"]
    assert peers
    ranked = [point for point in suite.points if point.scenario_class]
    for point in ranked:
        names = columns(suite, point, None)
        assert {*registry(), *(f"equalised:{peer}" for peer in peers)} <= set(names)
        assert (f"queued-shortest:{peers[0]}" in names) == point.queued
    assert sum(point.queued for point in ranked) == 2
    for point in suite.points:
        assert point.settings["step_noise"] == 0.08
        assert set(point.policies) <= registry().keys()
    assert set(suite.modes) == {"quick", "standard", "full"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"policies": ["leest_work"]}, "unknown policy `leest_work`; did you mean `least_work`?"),
        ({"points": ["chatt"]}, "unknown point `chatt`; did you mean `chat`?"),
        ({"mode": "quik"}, "unknown mode `quik`; did you mean `quick`?"),
        ({"suite": "v2"}, "unknown suite `v2`; did you mean `v1`?"),
        ({"suite": "nowhere.toml"}, "no suite file nowhere.toml"),
        ({"traces": "nowhere"}, "--traces nowhere: no such folder"),
    ],
)
def test_unknown_names_are_named_with_the_nearest(
    tiny: Path, arguments: dict[str, object], complaint: str
) -> None:
    with pytest.raises(IrouterError) as raised:
        bench.run(**({"suite": tiny} | arguments))  # type: ignore[arg-type]
    assert str(raised.value).startswith(complaint)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('class = "chat"', 'clas = "chat"'), "tiny.toml: point `chat`: unknown key `clas`"),
        (("load = 0.9", "lod = 0.9"), "tiny.toml: point `chat`: unknown setting `lod`; did you mean `load`?"),
        (
            ("windows = 3", 'windows = "3"'),
            "tiny.toml: point `replay`: `windows` is '3', expected a whole number",
        ),
        (
            ('policies = "few"', 'policies = "fw"'),
            "tiny.toml: point `aborts/20 %`: unknown group `fw`; did you mean",
        ),
        (
            ('point = "chat"', 'point = "chart"'),
            "tiny.toml: sweep `aborts`: unknown point `chart`; did you mean `chat`?",
        ),
        (('title = "Chats"\n', ""), "tiny.toml: point `chat`: no `title`"),
        (('name = "replay"', 'name = "chat"'), "tiny.toml: two points have the name `chat`"),
        (('trace_files = ["elsewhere", "mine"]\n', ""), "tiny.toml: point `replay`: `trace_files` is []"),
        (("[modes.quick]", "[modes.quick"), "tiny.toml: "),
    ],
)
def test_a_bad_suite_file_is_named_with_its_entry(
    tiny: Path, tmp_path: Path, change: tuple[str, str], complaint: str
) -> None:
    path = tmp_path / "tiny.toml"
    text = tiny.read_text(encoding="utf-8")
    assert change[0] in text
    path.write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises(IrouterError) as raised:
        suite_files.load(path)
    assert str(raised.value).startswith(complaint)


def test_progress_that_raises_stops_the_run(tiny: Path) -> None:
    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(tiny, policies=["random"], points=["chat"], progress=stop)
