"""What engines say of themselves: read under every name, with its age, and what it shows of others."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

import irouter
from irouter import IrouterError
from irouter.serving.engine_metrics import read_engine_metrics
from irouter.serving.poller import MetricsPoller
from irouter.serving.replay import replay
from serving.support import URLS, Server, assert_idle, eventually

REQUEST: Any = {"prompt_tokens": 100, "max_tokens": 50}
OLD_VLLM = """\
# HELP vllm:num_requests_running Number of requests currently running on GPU.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="meta-llama/Llama-2-7b-hf"} 12.0
# HELP vllm:num_requests_swapped Number of requests swapped to CPU.
# TYPE vllm:num_requests_swapped gauge
vllm:num_requests_swapped{model_name="meta-llama/Llama-2-7b-hf"} 0.0
vllm:num_requests_waiting{model_name="meta-llama/Llama-2-7b-hf"} 3.0
# HELP vllm:gpu_cache_usage_perc GPU KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{model_name="meta-llama/Llama-2-7b-hf"} 0.25
vllm:cpu_cache_usage_perc{model_name="meta-llama/Llama-2-7b-hf"} 0.9
"""
TWO_VLLM_ENGINES = """\
vllm:num_requests_running{engine="0",model_name="a \\"quoted\\" name, {braces}"} 1.0
vllm:num_requests_running{engine="1",model_name="a \\"quoted\\" name, {braces}"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting{engine="1",model_name="m"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5 1700000000000
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.7
vllm:gpu_cache_usage_perc{engine="0",model_name="m"} 0.1
"""
SGLANG = """\
# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{engine_type="unified",model_name="meta-llama/Llama-3.1-8B-Instruct"} 162.0
sglang:num_used_tokens{engine_type="unified",model_name="meta-llama/Llama-3.1-8B-Instruct"} 123859.0
sglang:token_usage{engine_type="unified",model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.28
sglang:num_queue_reqs{engine_type="unified",model_name="meta-llama/Llama-3.1-8B-Instruct"} 2826.0
"""
SGLANG_RANKS = """\
sglang:num_running_reqs{dp_rank="0",tp_rank="0"} 5.0
sglang:num_running_reqs{dp_rank="0",tp_rank="1"} 5.0
sglang:num_running_reqs{dp_rank="1",tp_rank="2"} 7.0
sglang:num_queue_reqs{dp_rank="0",tp_rank="0"} 1.0
sglang:token_usage{dp_rank="0",tp_rank="0"} 0.2
sglang:token_usage{dp_rank="1",tp_rank="2"} 0.4
"""


@pytest.mark.parametrize(
    ("page", "waiting", "running", "kv_usage"),
    [
        (OLD_VLLM, 3, 12, 0.25),
        (TWO_VLLM_ENGINES, 4, 3, 0.6),
        (SGLANG, 2826, 162, 0.28),
        (SGLANG.replace("sglang:", "sglang_"), 2826, 162, 0.28),
        (SGLANG_RANKS, 1, 12, 0.3),
    ],
)
def test_pages_of_every_kind_are_read(page: str, waiting: int, running: int, kv_usage: float) -> None:
    assert read_engine_metrics(page) == {
        "waiting": waiting,
        "running": running,
        "kv_usage": pytest.approx(kv_usage),
    }


def test_a_page_without_a_figure_is_refused_by_its_names() -> None:
    page = OLD_VLLM.replace("vllm:gpu_cache", "vllm:other_cache")
    with pytest.raises(IrouterError, match=r"no kv_usage, expected one of: vllm_kv_cache_usage_perc"):
        read_engine_metrics(page)


@given(
    st.text()
    | st.lists(st.sampled_from([*OLD_VLLM.split(), *SGLANG.splitlines(), "\n", " NaN", "{"])).map("".join)
)
def test_no_page_does_more_than_be_refused(page: str) -> None:
    with contextlib.suppress(IrouterError, ValueError):
        figures = read_engine_metrics(page)
        assert 0 <= figures["kv_usage"] <= 1


def test_strangers_are_those_that_two_reports_show_beyond_our_own(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    router = irouter.Router(URLS, "least_work", profile="llama-3.1-8b@h100", shared_instances=True, log=log)
    own = router.try_route(**REQUEST)
    assert own is not None
    capacity = router.instances[0].kv_capacity_tokens
    busy: Any = {"waiting": 1, "running": 4, "kv_usage": 4000 / capacity}
    router.report(own.url, **busy)
    assert router.instances[0].strangers == 0, "it may be about to go"
    router.report(own.url, **busy)
    status = router.instances[0]
    assert (status.in_flight, status.strangers) == (5, 4)
    assert status.report_age_s is not None
    assert status.report_age_s < 1
    assert status.prompt_tokens + status.produced_tokens == pytest.approx(4000, rel=0.2)
    lease = router.try_route(**REQUEST)
    assert lease is not None
    assert lease.url == URLS[1], "others are on the first"
    assert lease.impact is not None
    router.report(own.url, waiting=0, running=1, kv_usage=0.0)
    assert router.instances[0].strangers == 0
    for ended in (own, lease):
        ended.finish()
    assert_idle(router)
    router.close()
    replayed = replay(log)
    assert (replayed.difference, replayed.requests) == (None, 2)


def test_a_router_that_is_alone_knows_no_strangers(small_profile: Path) -> None:
    with irouter.Router(URLS, profile=small_profile) as router:
        for _ in range(3):
            router.report(URLS[0], waiting=0, running=9, kv_usage=0.5)
        assert router.instances[0].strangers == router.instances[0].in_flight == 0


def test_strangers_go_with_their_instance_and_when_nothing_is_heard(small_profile: Path) -> None:
    with irouter.Router(URLS, profile=small_profile, shared_instances=True) as router:
        for url in URLS:
            for _ in range(2):
                router.report(url, waiting=0, running=9, kv_usage=0.5)
        router.drain_instance(URLS[0])
        router.report(URLS[0], waiting=1, running=10, kv_usage=0.5)
        router.take_back_instance(URLS[0])
        assert (router.instances[0].strangers, router.instances[0].generation) == (0, 1), "it starts clean"
        assert router.instances[1].strangers == 9
        router.report_lost(URLS[1])
        assert router.instances[1].report_age_s is None
        assert_idle(router)


class Page(http.server.BaseHTTPRequestHandler):
    """An engine's metrics, as the test says."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Location", "http://127.0.0.1:9/")
        self.end_headers()
        self.wfile.write(SGLANG.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def engine() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [500, 302])
def test_the_poller_reports_until_an_engine_does_not_answer(
    engine: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        irouter.Router([engine], profile="llama-3.1-8b@h100", shared_instances=True) as router,
        MetricsPoller(router, interval_s=0.02),
    ):
        eventually(lambda: router.instances[0].strangers == 162 + 2826)
        monkeypatch.setattr(Page, "status", status)
        eventually(lambda: router.instances[0].report_age_s is None)
        assert_idle(router)
        monkeypatch.setattr(Page, "status", 200)
        eventually(lambda: router.instances[0].report_age_s is not None)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_proxy_reads_the_metrics_of_emulated_engines() -> None:
    with Server("engine", "--profile", "llama-3.1-8b@h100", "--port", "0") as emulated:
        arguments = ("--port", "0", "--instance", emulated.url, "--poll-seconds", "0.05")
        with Server("serve", *arguments) as proxy, httpx2.Client(timeout=30) as client:
            eventually(
                lambda: (
                    f'irouter_engine_report_age_seconds{{instance="{emulated.url}",model=""}} 0.'
                    in client.get(proxy.url + "/metrics").text
                ),
                30,
            )
