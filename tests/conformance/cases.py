"""What is compared: a rule of each peer, our rule, and the events."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from conformance import scripts
from conformance.comparison import BAR, Agreement, Distribution, homes_agree
from conformance.ours import replay
from conformance.peers import Library, Peer, Proxy, version
from conformance.scripts import Event, Shape

DRAWS = 2000
HELD = 30
REQUESTS = 1000


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    peer: Peer
    rule: str
    """The rule's name in its package, and its settings where they are not the defaults."""
    policy: str
    instances: int
    script: Callable[[int], list[Event]]
    """The events, for about so many requests."""
    note: str = ""
    quick: bool = False
    """Whether a short run belongs to the gate."""
    bar: float = BAR
    """The least share of decisions that are equal or tied."""
    homes: bool = False
    """Whether the rule hashes keys to a ring of its own, so that only keys with equal homes can be compared."""

    @property
    def name(self) -> str:
        """What the case is called in the table and by pytest."""
        return f"{self.peer.package}: {self.rule}"

    @property
    def is_random(self) -> bool:
        """Whether draws are compared, not decisions."""
        return self.script is drawn

    def run(self, requests: int) -> "Result":
        """Runs the peer, then our rule with the peer's placements."""
        known, theirs = self.peer.run(self.instances, self.script(requests))
        decisions = replay(self.policy, self.instances, known, theirs)
        if self.is_random:
            return Result(self, len(known), Distribution.of(decisions[HELD:], self.instances))
        if self.homes:
            keys = [event["session"] for event in known if event["event"] == "submit"]
            decisions = homes_agree(decisions, keys)
        return Result(self, len(known), Agreement.of(decisions, self.bar))


@dataclass(frozen=True)
class Result:
    """What came out."""

    case: Case
    events: int
    outcome: Agreement | Distribution

    @property
    def version(self) -> str:
        """Package and version."""
        return version(self.case.peer.package)


def policy(name: str, **options: Any) -> str:
    """A policy with options."""
    return json.dumps({"name": name, "options": options})


def traffic(requests: int) -> list[Event]:
    """Mixed prompts, about 12 in flight."""
    return scripts.traffic(Shape(requests, in_flight=12), seed=7)


def whole_blocks(requests: int) -> list[Event]:
    """Traffic whose prompts end with a block."""
    return scripts.traffic(Shape(requests, in_flight=12, whole_blocks=True), seed=7)


def busy(requests: int) -> list[Event]:
    """The same with about 60 in flight, so that loads differ by more."""
    return scripts.traffic(Shape(requests, in_flight=60), seed=8)


def reported(instances: int) -> Callable[[int], list[Event]]:
    """Busy traffic with new engine loads, and a poll, every 60 requests."""
    return lambda requests: scripts.with_reports(busy(requests), instances, every=60, seed=3)


def keyed(requests: int) -> list[Event]:
    """Prompts of 64 groups that share at least their first 16 blocks, after one request of each on an idle cluster."""
    shape = Shape(requests, in_flight=24, groups=64, least_prefix_blocks=16)
    return scripts.with_homes(scripts.traffic(shape, seed=9))


def unhinted(requests: int) -> list[Event]:
    """Traffic without expected output lengths."""
    return [{k: v for k, v in event.items() if k != "expected_output_tokens"} for event in traffic(requests)]


def drawn(requests: int) -> list[Event]:
    """So many decisions at one state of the cluster."""
    return scripts.probes(HELD, requests)


def dynamo(settings: dict[str, str] | None = None, *, hears_progress: bool = False) -> Library:
    """Dynamo's selection service; output blocks are booked by its host, when it hears of progress."""
    environment = {f"DYN_ROUTER_{name}": value for name, value in (settings or {}).items()}
    library = Library("dynamo", "drive_dynamo.py", {"environment": environment})
    return library if hears_progress else replace(library, hears=library.hears - {"progress"})


def litellm(strategy: str, draws: int, **arguments: Any) -> Library:
    """LiteLLM's router; `draws` show what it takes at random."""
    header = {"strategy": strategy, "arguments": arguments, "draws": draws}
    return Library("litellm", "drive_litellm.py", header, frozenset({"submit", "first_token", "finished"}))


def ray(router: str, **arguments: Any) -> Library:
    """A request router of Ray Serve that probes every queue length."""
    header = {"router": router, "arguments": arguments}
    return Library("ray", "drive_ray.py", header, frozenset({"submit", "finished"}))


TWO_SECONDS = "polls every 2 s; between two of them"
SMG_POLLS = ["--load-monitor-interval", "2"]
ROUTER_POLLS = ["--worker-startup-check-interval", "2"]
GATED = ["--balance-abs-threshold", "4", "--balance-rel-threshold", "1.2"]
GATE = {"balance_abs_threshold": 4, "balance_rel_threshold": 1.2}
NO_WARM_UP = ["--worker-warmup-secs", "0"]
IN_PROCESS = "tree in process, every queue probed"
OWN_RING = "own hash ring: keys whose home is the same instance on both sides"

COSTS = {
    "KV_OVERLAP_SCORE_CREDIT": "0.5",
    "KV_OVERLAP_SCORE_CREDIT_DECAY": "0.7",
    "PREFILL_LOAD_SCALE": "2.5",
    "DECODE_ACTIVE_REQUEST_WEIGHT": "5",
}
OUR_COSTS = {
    "overlap_score_credit": 0.5,
    "overlap_score_credit_decay": 0.7,
    "prefill_load_scale": 2.5,
    "active_request_weight": 5.0,
}
HTTP_TOKENS = {"exact_tokens": False}

CASES = [
    Case(dynamo(), "KV cost", "dynamo_kv", 4, traffic, quick=True),
    Case(dynamo(COSTS), "KV cost, all weights set", policy("dynamo_kv", **OUR_COSTS), 4, traffic),
    Case(dynamo(hears_progress=True), "KV cost with output blocks", "dynamo_kv_osl", 4, unhinted),
    Case(
        dynamo(hears_progress=True),
        "KV cost with expected output tokens",
        policy("dynamo_kv_osl", expected_output="predicted"),
        4,
        traffic,
        quick=True,
    ),
    Case(dynamo({"TEMPERATURE": "0.5"}), "temperature 0.5", policy("dynamo_kv", temperature=0.5), 4, drawn),
    Case(litellm("least-busy", 0), "least-busy", "litellm_least_busy", 4, traffic, quick=True),
    Case(
        litellm("latency-based-routing", 24),
        "latency-based-routing, streams",
        policy("litellm_latency", measure="first_token"),
        4,
        traffic,
    ),
    Case(
        litellm("latency-based-routing", 24, lowest_latency_buffer=0.2),
        "latency-based-routing, buffer 0.2",
        policy("litellm_latency", measure="first_token", buffer=0.2),
        4,
        traffic,
    ),
    Case(ray("power_of_two"), "power of two, 2 replicas", "power_of_two", 2, traffic, quick=True),
    Case(ray("power_of_two"), "power of two, 4 replicas", "power_of_two", 4, drawn),
    Case(
        ray("prefix_affinity"),
        "prefix affinity",
        policy("ray_prefix_affinity", queue_cache_seconds=0.0),
        4,
        whole_blocks,
        note=IN_PROCESS,
    ),
    Case(
        ray("prefix_affinity", imbalanced_threshold=3),
        "prefix affinity, threshold 3",
        policy("ray_prefix_affinity", queue_cache_seconds=0.0, imbalance_threshold=3),
        4,
        whole_blocks,
        note=IN_PROCESS,
    ),
    Case(
        ray("prefix_affinity"),
        "prefix affinity, prompts that end within a block",
        policy("ray_prefix_affinity", queue_cache_seconds=0.0),
        4,
        traffic,
        note=f"{IN_PROCESS}; the bar is 95 %",
        bar=0.95,
    ),
    Case(Proxy("vllm-router", "round_robin"), "round_robin", "round_robin", 3, traffic),
    Case(Proxy("vllm-router", "random"), "random", "random", 4, drawn),
    Case(
        Proxy("vllm-router", "power_of_two", tells_load=False),
        "power_of_two, engines without /get_load",
        "power_of_two",
        2,
        traffic,
        note="as before a vLLM, which serves /load: own counts",
    ),
    Case(
        Proxy("vllm-router", "power_of_two", ROUTER_POLLS),
        "power_of_two, loads polled",
        "power_of_two_stale",
        2,
        reported(2),
        note=TWO_SECONDS,
    ),
    Case(Proxy("vllm-router", "cache_aware"), "cache_aware", "cache_aware", 4, traffic, quick=True),
    Case(
        Proxy("vllm-router", "cache_aware", GATED),
        "cache_aware, thresholds 4 and 1.2",
        policy("cache_aware", **GATE),
        4,
        busy,
    ),
    Case(
        Proxy("vllm-router", "consistent_hash"),
        "consistent_hash",
        "consistent_hash",
        4,
        keyed,
        note=OWN_RING,
        homes=True,
    ),
    Case(Proxy("sglang-router", "round_robin"), "round_robin", "round_robin", 3, traffic),
    Case(Proxy("sglang-router", "random"), "random", "random", 4, drawn),
    Case(
        Proxy("sglang-router", "power_of_two", ROUTER_POLLS),
        "power_of_two",
        "power_of_two_stale",
        2,
        reported(2),
        note=TWO_SECONDS,
    ),
    Case(Proxy("sglang-router", "cache_aware"), "cache_aware", "cache_aware", 4, traffic, quick=True),
    Case(
        Proxy("sglang-router", "cache_aware", GATED),
        "cache_aware, thresholds 4 and 1.2",
        policy("cache_aware", **GATE),
        4,
        busy,
    ),
    Case(
        Proxy("smg", "round_robin"),
        "round_robin",
        "round_robin",
        2,
        traffic,
        note="two instances: the order of its list is its own",
    ),
    Case(Proxy("smg", "random"), "random", "random", 4, drawn),
    Case(
        Proxy("smg", "power_of_two", ["--power-of-two-load-metric", "requests"]),
        "power_of_two, by requests",
        "power_of_two",
        2,
        traffic,
    ),
    Case(
        Proxy("smg", "power_of_two", SMG_POLLS),
        "power_of_two",
        policy("power_of_two_tokens", **HTTP_TOKENS),
        2,
        reported(2),
        note=TWO_SECONDS,
    ),
    Case(
        Proxy("smg", "least_load", SMG_POLLS),
        "least_load",
        policy("smg_least_load", **HTTP_TOKENS),
        3,
        reported(3),
        note=TWO_SECONDS,
        quick=True,
    ),
    Case(
        Proxy("smg", "cache_aware", [*SMG_POLLS, *NO_WARM_UP]),
        "cache_aware",
        policy("cache_aware_smg", **HTTP_TOKENS),
        4,
        reported(4),
        note=f"{TWO_SECONDS}; without warm-up",
    ),
    Case(
        Proxy("smg", "prefix_hash", ["--prefix-hash-balance-abs-threshold", "2"]),
        "prefix_hash, threshold 2",
        policy("prefix_hash", balance_abs_threshold=2),
        4,
        keyed,
        note=f"{OWN_RING}; keyed by the header x-smg-routing-key",
        homes=True,
    ),
]
