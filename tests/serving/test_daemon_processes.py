"""The daemon and its clients as processes that are killed."""

import collections
import concurrent.futures
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import irouter
from irouter.serving import DisconnectedError
from serving.support import URLS, Server, assert_idle, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROFILE = "llama-3.1-8b@h100"
REQUEST: Any = {"prompt_tokens": 100, "max_tokens": 50}
CLIENT = """
import sys, time, irouter
client = irouter.connect(sys.argv[1])
leases = [client.try_route(prompt_tokens=100, max_tokens=50) for _ in range(20)]
print(len(leases), flush=True)
time.sleep(60)
"""


def start_daemon(path: Path, *urls: str) -> Server:
    instances = [argument for url in urls for argument in ("--instance", url)]
    return Server("daemon", str(path), "--profile", PROFILE, *instances)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "router.sock"


def test_a_killed_client_gives_its_leases_back_at_once_and_no_other(path: Path) -> None:
    with start_daemon(path, *URLS), irouter.connect(path) as stays:
        kept = stays.try_route(**REQUEST)
        with subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-c", CLIENT, str(path)], stdout=subprocess.PIPE, text=True
        ) as dies:
            assert dies.stdout is not None
            assert dies.stdout.readline() == "20\n"
            assert stays.statistics.in_flight == 21
            dies.kill()
            killed_s = time.monotonic()
            eventually(lambda: stays.statistics.in_flight == 1)
            assert time.monotonic() - killed_s < 1
        assert stays.statistics.endings == {irouter.serving.Ending.FAILED: 20}
        assert kept is not None
        kept.finish()
        assert_idle(stays)


def test_a_killed_daemon_is_an_error_and_its_successor_counts_what_lives(path: Path) -> None:
    with start_daemon(path, *URLS) as dies:
        client = irouter.connect(path)
        leases = [client.try_route(**REQUEST) for _ in range(10)]
        dies.process.kill()
        dies.process.wait()
        with pytest.raises(DisconnectedError):
            client.try_route(**REQUEST)
        with pytest.raises(DisconnectedError), client.acquire(**REQUEST):
            pass
    with start_daemon(path, *URLS):
        eventually(lambda: client.connected)
        assert client.statistics.in_flight == 10
        for lease in leases:
            assert lease is not None
            lease.finish(tokens=10)
        assert_idle(client)
        client.close()


def test_a_daemon_that_stands_still_is_noticed(path: Path) -> None:
    with start_daemon(path, *URLS) as daemon:
        client = irouter.connect(path, timeout_s=0.2)
        daemon.process.send_signal(signal.SIGSTOP)
        with pytest.raises(DisconnectedError, match=r"did not answer within 0\.2 s"):
            client.try_route(**REQUEST)
        eventually(lambda: not client.connected, 10)
        daemon.process.send_signal(signal.SIGCONT)
        eventually(lambda: client.connected, 10)
        with client.acquire(**REQUEST):
            pass
        assert_idle(client)
        client.close()


@pytest.fixture
def engines() -> Iterator[list[Server]]:
    arguments = ("engine", "--profile", PROFILE, "--port", "0", "--speed", "4")
    with Server(*arguments) as first, Server(*arguments) as second:
        yield [first, second]


@pytest.mark.parametrize("fallback", [False, True])
def test_proxies_share_a_daemon_and_survive_it(
    path: Path,
    tmp_path: Path,
    engines: list[Server],
    fallback: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    urls = [engine.url for engine in engines]
    config = tmp_path / "proxy.toml"
    tables = "".join(f'[[instances]]\nurl = "{url}"\n' for url in urls)
    config.write_text(f'profile = "{PROFILE}"\ndaemon_fallback = {str(fallback).lower()}\n{tables}')
    serve = ("serve", "--port", "0", "--config", str(config), "--daemon", str(path))
    with (
        httpx2.Client(timeout=60) as http,
        start_daemon(path, *urls) as daemon,
        Server(*serve) as first,
        Server(*serve) as second,
    ):

        def ask(number: int) -> int:
            proxy = (first, second)[number % 2]
            body = {"model": "m", "prompt": f"Question {number}", "max_tokens": 40, "stream": number % 3 == 0}
            if number == 60:
                daemon.process.kill()
            return http.post(proxy.url + "/v1/completions", json=body).status_code

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            codes = collections.Counter(pool.map(ask, range(160)))
        assert codes.total() == 160
        assert set(codes) <= ({200} if fallback else {200, 503}), codes
        daemon.process.wait()
        page = http.get(first.url + "/metrics").text
        assert 'irouter_daemon_connected{model=""} 0.0' in page
        with start_daemon(path, *urls), irouter.connect(path) as looks:
            for proxy in (first, second):
                eventually(
                    lambda proxy=proxy: 'connected{model=""} 1.0' in http.get(proxy.url + "/metrics").text,  # type: ignore[misc]
                    30,
                )
            assert set(map(ask, range(200, 220))) == {200}
            eventually(lambda: looks.statistics.in_flight == 0)
            assert_idle(looks)
            assert looks.statistics.submitted == 20


def test_a_proxy_names_what_the_daemon_does_not_know(path: Path) -> None:
    with start_daemon(path, URLS[0]):
        command = [sys.executable, "-m", "irouter.cli", "serve", "--daemon", str(path), "--instance", URLS[1]]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603
        assert ended.returncode == 2
        assert f"the daemon has no instance {URLS[1]}, expected some of: {URLS[0]}" in ended.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[models]]\nname = "a"\n', "a daemon serves one pool, found the models `a`"),
        ('instances_file = "more.toml"\n', "a daemon does not look for instances, found `instances_file`"),
        ('[[dns]]\nurl = "http://engines:8000"\n', "a daemon does not look for instances, found `dns`"),
    ],
)
def test_settings_that_are_not_for_a_daemon_are_named(text: str, message: str, tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text(text)
    for command in (["daemon", str(tmp_path / "sock")], ["serve", "--daemon", str(tmp_path / "sock")]):
        arguments = [sys.executable, "-m", "irouter.cli", *command, "--config", str(config)]
        ended = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603
        assert ended.returncode == 2
        assert message in ended.stderr
