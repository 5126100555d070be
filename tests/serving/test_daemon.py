"""One router for several clients: the calls are those of `Router`, and whatever dies, nothing leaks."""

import asyncio
import gc
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import irouter
from irouter import IrouterError
from irouter.serving import (
    ClosedError,
    DeadlineError,
    DisconnectedError,
    Ending,
    NoInstanceError,
    QueueFullError,
)
from irouter.serving.daemon.wire import Lines, WireError, encode
from irouter.serving.replay import replay
from serving.support import URLS, DaemonThread, assert_idle, eventually
from serving.test_interleavings import STEPS, Clients, Step

REQUEST: Any = {"prompt_tokens": 100, "max_tokens": 50}
# Batch and look-ahead of two instances with two slots.
_FULL = 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "router.sock"


@pytest.fixture
def router(small_profile: Path, path: Path) -> Iterator[irouter.Router]:
    """Two instances with two slots, first come first served, and at most one may wait."""
    with (
        irouter.Router(URLS, "central_fcfs", profile=small_profile, max_waiting=1) as router,
        DaemonThread(router, path),
    ):
        yield router


@pytest.fixture
def client(router: irouter.Router, path: Path) -> Iterator[irouter.DaemonRouter]:  # noqa: ARG001 - it is there
    with irouter.connect(path) as client:
        yield client


SCRAPS = [b"\n", b"[", b'["submit",0,{}]\n', b'["end"]\n', b'["call",0,"drain",[]]\n', b'["ping"]\n']


def fill(client: irouter.DaemonRouter) -> list[irouter.Lease]:
    """Takes leases until the policy has no room for more."""
    leases = [client.try_route(**REQUEST) for _ in range(_FULL)]
    return [lease for lease in leases if lease is not None]


def test_leases_and_what_they_tell_are_those_of_a_local_router(
    client: irouter.DaemonRouter, small_profile: Path
) -> None:
    with irouter.Router(URLS, "central_fcfs", profile=small_profile) as local:
        for asked in (local, client):
            with asked.acquire(prompt="Why is the sky blue?", max_tokens=50) as lease:
                assert (lease.number, lease.url, lease.ending) == (0, URLS[0], None)
                assert lease.impact is not None
                assert lease.impact.explanation.startswith("0.0")
                assert lease.cached_tokens == 0
                assert lease.waited_s < 1
                lease.first_token()
                lease.progress(20)
                eventually(lambda asked=asked: asked.instances[0].produced_tokens == 20)  # type: ignore[misc]
            assert lease.ending is Ending.FINISHED
            eventually(lambda asked=asked: asked.statistics.in_flight == 0)  # type: ignore[misc]
            assert asked.statistics.endings == {Ending.FINISHED: 1}
        ours, theirs = (asked.impact(**REQUEST) for asked in (local, client))
        assert ours.keys() == theirs.keys()
        assert [entry.url for entry in client.instances] == list(URLS)
        assert repr(client.instances[0]) == repr(local.instances[0])


def test_errors_have_their_kinds_and_words(client: irouter.DaemonRouter) -> None:
    with pytest.raises(NoInstanceError, match="no instance"), client.acquire(exclude=URLS, **REQUEST):
        pass
    with pytest.raises(IrouterError, match="max_model_len"):
        client.try_route(prompt_tokens=10**6, max_tokens=5)
    with pytest.raises(IrouterError, match="expected at most 50"):
        client.try_route(**REQUEST).progress(51)  # type: ignore[union-attr]
    with pytest.raises(IrouterError, match="interpreted as an integer"):
        client.try_route(prompt_tokens=1, max_tokens="many")  # type: ignore[arg-type]
    with pytest.raises(IrouterError, match="no instance http://c"):
        client.drain_instance("http://c:1")
    with pytest.raises(IrouterError, match="not held back by this client"):
        client.resume_instance(URLS[0])
    assert client.connected, "a bad request is no reason to part"


def test_requests_wait_at_the_daemon_and_are_woken_by_others(
    client: irouter.DaemonRouter, path: Path
) -> None:
    leases = fill(client)
    with pytest.raises(DeadlineError), client.acquire(deadline_s=0.05, **REQUEST):
        pass

    async def wait_and_be_woken() -> float:
        with irouter.connect(path) as other:
            waits = asyncio.ensure_future(other.acquire(**REQUEST).__aenter__())
            await asyncio.to_thread(eventually, lambda: other.statistics.waiting == 1)
            with pytest.raises(QueueFullError):
                await client.acquire(**REQUEST).__aenter__()
            assert other.try_route(**REQUEST) is None, "one waits"
            assert not waits.done()
            for lease in leases:
                lease.finish(tokens=7)
            async with asyncio.timeout(5):
                return (await waits).waited_s

    assert asyncio.run(wait_and_be_woken()) > 0
    for lease in leases:
        lease.cancel()
    eventually(lambda: client.statistics.in_flight == 0)


def test_a_cancelled_wait_and_a_dropped_lease_are_given_back(
    client: irouter.DaemonRouter, router: irouter.Router
) -> None:
    leases = fill(client)

    async def cancel() -> None:
        waits = asyncio.ensure_future(client.acquire(**REQUEST).__aenter__())
        await asyncio.to_thread(eventually, lambda: client.statistics.waiting == 1)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)

    asyncio.run(cancel())
    leases.clear()
    gc.collect()
    eventually(lambda: router.statistics.in_flight == 0)
    assert_idle(router)
    assert router.statistics.endings[Ending.DROPPED] == _FULL
    assert router.statistics.endings[Ending.CANCELLED] == 1


def test_a_client_that_goes_away_fails_its_own_leases_at_once(router: irouter.Router, path: Path) -> None:
    with irouter.connect(path) as stays:
        kept = stays.try_route(**REQUEST)
        goes = irouter.connect(path)
        lost = goes.try_route(**REQUEST)
        goes.drain_instance(URLS[1])
        assert router.instances[1].status == "draining"
        goes.close()
        eventually(lambda: router.statistics.in_flight == 1)
        assert router.statistics.endings == {Ending.FAILED: 1}
        eventually(lambda: router.instances[1].status == "ready")
        assert lost is not None
        assert kept is not None
        with pytest.raises(ClosedError):
            goes.try_route(**REQUEST)
        kept.finish()
    eventually(lambda: router.statistics.in_flight == 0)
    assert_idle(router)


def test_an_instance_is_held_back_until_every_client_took_it_back(router: irouter.Router, path: Path) -> None:
    with irouter.connect(path) as first, irouter.connect(path) as second:
        for client in (first, second):
            client.drain_instance(URLS[0])
        first.take_back_instance(URLS[0])
        assert router.instances[0].status == "draining"
        second.take_back_instance(URLS[0])
        assert (router.instances[0].status, router.instances[0].generation) == ("ready", 1)


def test_a_removed_instance_ends_leases_of_every_client(router: irouter.Router, path: Path) -> None:
    with irouter.connect(path) as first, irouter.connect(path) as second:
        lease = first.try_route(**REQUEST)
        assert lease is not None
        second.remove_instance(lease.url)
        eventually(lambda: lease.ending is Ending.LOST)
        second.add_instance(lease.url)
        lease.finish()
    assert_idle(router)


def test_leases_outlive_their_daemon_and_are_counted_by_the_next(small_profile: Path, path: Path) -> None:
    log = path.with_name("decisions.jsonl")

    def make() -> irouter.Router:
        return irouter.Router(URLS, "central_fcfs", profile=small_profile, log=log)

    with make() as before, DaemonThread(before, path):
        client = irouter.connect(path)
        leases = fill(client)
        leases[0].progress(20)
        client.add_instance("http://c:1", profile=small_profile)
        client.drain_instance("http://c:1")
        refused: list[Exception] = []

        def wait() -> None:
            try:
                client.acquire(**REQUEST).__enter__()
            except DisconnectedError as error:
                refused.append(error)

        waits = threading.Thread(target=wait)
        waits.start()
        eventually(lambda: before.statistics.waiting == 1)
    waits.join(5)
    assert "went away" in str(refused[0]), "it waited there"
    with pytest.raises(DisconnectedError, match="is not there"):
        client.try_route(**REQUEST)
    leases.pop().fail("while nobody was there")
    with make() as after, DaemonThread(after, path):
        eventually(lambda: after.statistics.in_flight == _FULL - 1)
        assert sorted(entry.in_flight for entry in after.instances) == [0, 7, 8]
        assert [entry.status for entry in after.instances] == ["ready", "ready", "draining"]
        assert sum(entry.produced_tokens for entry in after.instances) == 20
        for lease in leases:
            lease.finish(tokens=30)
        eventually(lambda: after.statistics.in_flight == 0)
        assert_idle(after)
        assert after.statistics.endings == {Ending.FINISHED: _FULL - 1}
        client.close()
    replayed = replay(log)
    assert (replayed.difference, replayed.requests) == (None, _FULL - 1)


def test_a_fallback_takes_what_waits_and_what_comes_while_the_daemon_is_away(
    small_profile: Path, path: Path
) -> None:
    alone = irouter.Router(URLS, "least_requests", profile=small_profile)
    with irouter.Router(URLS, "central_fcfs", profile=small_profile) as router, DaemonThread(router, path):
        client = irouter.connect(path, fallback=alone)
        fill_leases = fill(client)
        got: list[irouter.Lease] = []
        waits = threading.Thread(target=lambda: got.append(client.acquire(**REQUEST).__enter__()))
        waits.start()
        eventually(lambda: router.statistics.waiting == 1)
    waits.join(5)
    assert alone.statistics.in_flight == 1, "what waited goes by the fallback"
    lease = client.try_route(**REQUEST)
    assert lease is not None
    assert alone.statistics.in_flight == 2
    with irouter.Router(URLS, "central_fcfs", profile=small_profile) as router, DaemonThread(router, path):
        eventually(lambda: router.statistics.in_flight == _FULL)
        for ended in (*got, lease, *fill_leases):
            ended.finish()
        eventually(lambda: router.statistics.in_flight == 0)
        assert_idle(alone)
        assert_idle(router)
        client.close()


def test_the_socket_is_the_owners_and_one_daemon_has_it(router: irouter.Router, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(IrouterError, match=r"a daemon serves at .* already"):
        asyncio.run(_serve(router, path))
    file = path.with_name("file")
    file.write_text("something of the user's")
    with pytest.raises(IrouterError, match="no socket"):
        asyncio.run(_serve(router, file))


async def _serve(router: irouter.Router, path: Path) -> None:
    async with irouter.serving.daemon.server.daemon(router, path):
        pass


@pytest.mark.parametrize("rounds", range(5))
def test_a_client_that_comes_while_the_daemon_closes_is_hung_up_on(
    tmp_path: Path, small_profile: Path, rounds: int
) -> None:
    path = tmp_path / "closing.sock"

    async def main(router: irouter.Router, raw: socket.socket) -> None:
        async with irouter.serving.daemon.server.daemon(router, path):
            raw.connect(str(path))
            for _ in range(rounds):
                await asyncio.sleep(0)

    with irouter.Router(URLS, profile=small_profile) as router, socket.socket(socket.AF_UNIX) as raw:
        asyncio.run(main(router, raw))
        raw.settimeout(5)
        try:
            while raw.recv(1000):
                pass
        except ConnectionResetError:
            pass  # it was never accepted
        gc.collect()


@given(st.lists(st.binary(max_size=40) | st.sampled_from(SCRAPS), max_size=12))
def test_whatever_is_written_to_the_socket_the_daemon_lives(
    tmp_path_factory: pytest.TempPathFactory, small_profile: Path, chunks: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "router.sock"
    with irouter.Router(URLS, profile=small_profile) as router, DaemonThread(router, path):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(path))
            try:
                for chunk in chunks:
                    raw.sendall(chunk)
            except OSError:
                pass  # it hung up on us
        with irouter.connect(path) as client, client.acquire(**REQUEST):
            pass
        eventually(lambda: router.statistics.in_flight == 0)
        assert_idle(router)


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 4000)), max_size=80))
def test_after_any_interleaving_of_two_clients_the_daemon_is_idle(
    tmp_path_factory: pytest.TempPathFactory, small_profile: Path, steps: list[Step]
) -> None:
    path = tmp_path_factory.mktemp("any") / "router.sock"
    with (
        irouter.Router(URLS, "central_fcfs", profile=small_profile, max_hold_s=float("inf")) as router,
        DaemonThread(router, path),
        irouter.connect(path) as first,
        irouter.connect(path) as second,
    ):

        async def both() -> None:
            # The second client leaves the instances alone: each keeps its own account of them.
            others = [step for step in steps if step[0] not in {"crash", "rejoin", "drain", "resume"}]
            await asyncio.gather(Clients(first).run(steps), Clients(second).run(others))

        asyncio.run(both())
        gc.collect()
        eventually(lambda: router.statistics.in_flight == router.statistics.waiting == 0)
        assert_idle(router)


@given(st.lists(st.lists(st.integers() | st.text(max_size=9), max_size=4), max_size=6), st.data())
def test_lines_come_whole_however_they_are_cut(messages: list[list[int | str]], data: st.DataObject) -> None:
    named = [["name", *message] for message in messages]
    text = b"".join(encode(message) for message in named)
    lines, found, at = Lines(), [], 0
    while at < len(text):
        step = data.draw(st.integers(1, len(text) - at))
        found += lines.feed(text[at : at + step])
        at += step
    assert found == named


@pytest.mark.parametrize("line", [b"{}", b"[]", b"[1]", b"nonsense", b"\xff", b"[" * 10_000])
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(WireError, match="expected a JSON array"):
        Lines().feed(line + b"\n")
