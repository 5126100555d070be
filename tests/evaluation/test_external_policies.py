"""Policies in processes of their own: what they decide counts, what they do wrong counts against them alone."""

import json
import re
import socketserver
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import irouter
from irouter import IrouterError
from irouter.evaluation.presentation import warnings

ROOT = Path(__file__).parents[2]
EXAMPLE = f"external:{sys.executable} {ROOT / 'examples' / 'external_policy.py'}"
CONNECT = """
import json, os, socket, time
connection = socket.socket(socket.AF_UNIX)
connection.connect(os.environ["IROUTER_POLICY_SOCKET"])
lines = connection.makefile("rw")
def say(text):
    print(text, file=lines, flush=True)
lines.readline()
"""
GREET = CONNECT + "say('{\"protocol\": 1}')\n"
BROKEN = {
    "hangs": (
        GREET + "time.sleep(600)",
        "timeout_s=0.05,max_timeouts=2",
        "no answer within 0.05 s, 2 times in a row",
    ),
    "prints-garbage": (GREET + "for line in lines: say('garbage')", "", 'it answered "garbage"'),
    "dies": (GREET + "lines.readline(); os._exit(3)", "", "it closed the connection"),
    "answers-a-gone-instance": (GREET + "for line in lines: say('{\"instance\": 77}')", "", "instance 77"),
    "never-greets": (CONNECT + "time.sleep(600)", "start_timeout_s=2", "within 2 s"),
    "never-connects": ("", "", "it ended before it connected"),
}


def quick(*policies: str, **settings: Any) -> irouter.Comparison:
    chosen: dict[str, Any] = {"policies": policies, "requests": 80, "seeds": 2} | settings
    return irouter.compare("conversation", **chosen)


def test_a_process_has_the_figures_of_the_rule_that_it_follows() -> None:
    figures = quick(EXAMPLE, "join_shortest_queue", load=1.1).policies
    assert figures[EXAMPLE] == figures["join_shortest_queue"]
    assert figures[EXAMPLE]["policy_failures"] == 0
    assert figures[EXAMPLE]["e2e_mean_s"] != figures["round_robin"]["e2e_mean_s"]


def test_the_program_of_the_documentation_follows_that_rule(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "external-policies.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "my_policy.py").write_text(program)
    policy = f"external:{sys.executable} {tmp_path / 'my_policy.py'}"
    figures = quick(policy, "join_shortest_queue").policies
    assert figures[policy] == figures["join_shortest_queue"]


@pytest.mark.parametrize("how", BROKEN)
def test_what_a_process_does_wrong_is_counted_and_hurts_nobody_else(how: str, tmp_path: Path) -> None:
    program, limits, complaint = BROKEN[how]
    (tmp_path / "broken.py").write_text(program)
    policy = f"external:{sys.executable} {tmp_path}/broken.py"
    comparison = quick(f"{policy}({limits})" if limits else policy, "least_requests")
    (broken,) = (name for name in comparison.policies if name.startswith("external:"))
    # Two seeds of 80 requests, and up to as many after them that keep up the load.
    assert comparison.policies[broken]["policy_failures"] in range(160, 321)
    assert comparison.policies[broken]["completed"] == sum(comparison.main.results["workload"]["requests"])
    assert comparison.policies["least_requests"] == quick("least_requests").policies["least_requests"]
    (warning,) = warnings(comparison)
    assert complaint in warning


class Turns(socketserver.StreamRequestHandler):
    """Each instance in turn, a turn of its own for each connection."""

    def handle(self) -> None:
        for turn, line in enumerate(self.rfile, start=-1):
            instances = json.loads(line)["instances"]
            answer = {"protocol": 1} if turn < 0 else {"instance": turn % len(instances)}
            self.wfile.write(json.dumps(answer).encode() + b"\n")


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "turns.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Turns) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def test_a_process_that_listens_serves_one_connection_per_run(listening: Path) -> None:
    figures = quick(f"external:{listening}", load=1.1).policies
    turns, round_robin = figures[f"external:{listening}"], figures["round_robin"]
    assert turns["policy_failures"] == 0
    assert turns["e2e_mean_s"] == round_robin["e2e_mean_s"]


def test_a_simulation_of_a_process_that_fails_stops(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("")
    policy = f"external:{sys.executable} {tmp_path}/broken.py"
    with pytest.raises(IrouterError, match="it ended before it connected"):
        irouter.simulate("conversation", policy=policy, requests=10)


def test_a_router_takes_a_process_as_a_policy() -> None:
    with irouter.Router(["http://a:1", "http://b:1"], EXAMPLE, profile="llama-3.1-8b@a100") as router:
        leases = [router.try_route(prompt_tokens=100, max_tokens=50) for _ in range(2)]
        assert [lease and lease.url for lease in leases] == ["http://a:1", "http://b:1"]
        assert router.statistics.fallbacks == 0
