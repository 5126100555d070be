"""Instances that come and go: by the admin API, a watched file and DNS."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from irouter import IrouterError
from irouter.serving.proxy import PoolConfig
from serving.fakes import BODY, PROFILE, Bench, bench
from serving.test_models import two_models

ADMIN = {"Authorization": "Bearer admin-secret"}
ANYWHERE: dict[str, Any] = {"admin_key": "admin-secret", "admin_allowed": ("127.0.0.0/8", "localhost")}


def statuses(it: Bench) -> dict[str, str]:
    return {entry.url: entry.status for pool in it.pools.values() for entry in pool.router.instances}


async def register(it: Bench, url: str, **fields: str) -> tuple[int, str]:
    status, text, _ = await it.request("POST", "/admin/instances", json={"url": url, **fields}, headers=ADMIN)
    return status, text


def test_the_admin_api_adds_and_takes_out_instances() -> None:
    async def main() -> None:
        async with bench(lambda _: {"profile": PROFILE, "policy": "least_work"}, **ANYWHERE) as it:
            first, second = (fake.url for fake in it.fakes)
            assert (await it.ask())[0] == 503
            assert await register(it, first + "/") == (201, json.dumps({"url": first, "model": None}))
            assert (await it.ask())[0] == 200
            status, text = await register(it, first)
            assert (status, "is there, from the admin API" in text) == (400, True)
            assert (await register(it, second, profile="llama-3.1-8b@a100"))[0] == 201
            _, text, _ = await it.request("GET", "/admin/instances", headers=ADMIN)
            listed = json.loads(text)["instances"]
            assert [(entry["url"], entry["source"], entry["status"]) for entry in listed] == [
                (first, "admin API", "ready"),
                (second, "admin API", "ready"),
            ]
            assert listed[1]["share"] < 0.3, "a new one starts slowly"
            it.fakes[0].handler = it.fakes[0].hang
            it.fakes[1].handler = it.fakes[1].hang
            asking = [asyncio.create_task(it.ask()) for _ in range(3)]
            await it.until(lambda: it.router.statistics.in_flight == 3)
            for url in (first, second):
                status, _, _ = await it.request(
                    "DELETE", "/admin/instances", params={"url": url}, headers=ADMIN
                )
                assert status == 202
            assert statuses(it) == {first: "draining", second: "draining"}, "they finish what they have"
            assert (await it.ask())[0] == 503
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            await it.until(lambda: statuses(it) == {first: "gone", second: "gone"})
            status, text, _ = await it.request(
                "DELETE", "/admin/instances", params={"url": "http://x"}, headers=ADMIN
            )
            assert (status, "no instance http://x" in text) == (400, True)
            assert it.quiet()

    asyncio.run(main())


def test_an_instance_that_comes_back_while_it_leaves_keeps_its_requests() -> None:
    async def main() -> None:
        async with bench(engines=1, **ANYWHERE) as it:
            (fake,) = it.fakes
            fake.handler = fake.hang
            asking = asyncio.create_task(it.ask())
            await it.until(lambda: it.router.statistics.in_flight == 1)
            await it.request("DELETE", "/admin/instances", params={"url": fake.url}, headers=ADMIN)
            assert statuses(it) == {fake.url: "draining"}
            status, text = await register(it, fake.url, profile="llama-3.1-8b@a100")
            assert (status, "is leaving with the profile" in text) == (400, True)
            assert (await register(it, fake.url))[0] == 201
            assert statuses(it) == {fake.url: "ready"}
            assert it.router.statistics.in_flight == 1
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            fake.handler = fake.answer
            assert (await it.ask())[0] == 200

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no `url`"),
        ({"url": 5}, "`url` is 5, expected text"),
        ({"url": "http://127.0.0.1:1", "secret": "x"}, "unknown field `secret`"),
        ({"url": "http://127.0.0.1:1"}, "`model` is None, expected `small`, `large`"),
        ({"url": "http://127.0.0.1:1", "model": "medium"}, "`model` is 'medium'"),
        ({"url": "http://127.0.0.1:1", "model": "small", "profile": "/etc/passwd"}, "unknown profile"),
        ([], "expected an object"),
    ],
)
def test_a_bad_registration_is_named(fields: Any, message: str) -> None:
    async def main() -> None:
        async with bench(two_models, **ANYWHERE) as it:
            status, text, _ = await it.request("POST", "/admin/instances", json=fields, headers=ADMIN)
            assert (status, message in json.loads(text)["error"]["message"]) == (400, True), text
            assert len(statuses(it)) == 2

    asyncio.run(main())


def test_a_watched_file_is_followed_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "instances.toml"

    def write(*urls: str) -> None:
        path.write_text("".join(f'[[instances]]\nurl = "{url}"\n' for url in urls))

    def arrange(urls: list[str]) -> dict[str, Any]:
        write(urls[0])
        return {"instances_file": str(path), "discovery_interval_s": 0.02, "profile": PROFILE}

    async def main() -> None:
        async with bench(arrange, **ANYWHERE) as it:
            first, second = (fake.url for fake in it.fakes)
            assert statuses(it) == {first: "ready"}
            assert it.router.instances[0].share == 1.0, "what was there from the start does not start slowly"
            write(first, second)
            await it.until(lambda: statuses(it) == {first: "ready", second: "ready"})
            assert it.router.instances[1].share < 0.3
            for broken in ("[[instances", '[[instance]]\nurl = "x"', '[[instances]]\nurl = "ftp://x"'):
                path.write_text(broken)
                await asyncio.sleep(0.1)
                assert statuses(it) == {first: "ready", second: "ready"}, broken
            path.unlink()
            await asyncio.sleep(0.1)
            assert statuses(it) == {first: "ready", second: "ready"}
            _, text, _ = await it.request("DELETE", "/admin/instances", params={"url": second}, headers=ADMIN)
            assert "comes from the file instances.toml: take it out there" in text
            write(second)
            await it.until(lambda: statuses(it) == {first: "gone", second: "ready"})
            assert (await it.ask())[0] == 200
            assert it.quiet()

    asyncio.run(main())
    reasons = [record.fields["reason"] for record in caplog.records if record.message == "discovery_failed"]  # type: ignore[attr-defined]
    assert len(reasons) == len(set(reasons)) == 4, "each is said once"


def test_a_file_that_is_broken_from_the_start_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "instances.toml"

    async def main() -> None:
        async with bench(lambda _: {"instances_file": str(path)}):
            pass

    with pytest.raises(IrouterError, match="no file"):
        asyncio.run(main())
    path.write_text('[[instances]]\nurl = "http://127.0.0.1:1"\nprofile = "no-such-profile"\n')
    with pytest.raises(IrouterError, match="no-such-profile"):
        asyncio.run(main())


def test_an_instance_whose_profile_changes_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "instances.toml"

    def write(url: str, profile: str) -> None:
        path.write_text(f'[[instances]]\nurl = "{url}"\nprofile = "{profile}"\n')

    def arrange(urls: list[str]) -> dict[str, Any]:
        write(urls[0], PROFILE)
        return {"instances_file": str(path), "discovery_interval_s": 0.02}

    async def main() -> None:
        async with bench(arrange, engines=1) as it:
            (fake,) = it.fakes
            before = it.router.instances[0].kv_capacity_tokens
            write(fake.url, "no-such-profile")
            await it.until(lambda: statuses(it) == {fake.url: "gone"})
            write(fake.url, "llama-3.1-8b@h200")
            await it.until(lambda: statuses(it) == {fake.url: "ready"})
            assert it.router.instances[0].kv_capacity_tokens != before
            assert (await it.ask())[0] == 200

    asyncio.run(main())


def test_a_name_is_resolved_again_and_kept_when_it_does_not_resolve(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[str] = []
    real = asyncio.BaseEventLoop.getaddrinfo

    async def getaddrinfo(loop: Any, host: Any, port: Any, **options: Any) -> Any:
        if host != "engines.test":
            return await real(loop, host, port, **options)
        if not answers:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    port = 0

    def arrange(urls: list[str]) -> dict[str, Any]:
        nonlocal port
        port = int(urls[0].rpartition(":")[2])
        pool = PoolConfig("m", dns=(f"http://engines.test:{port}",), profile=PROFILE)
        return {"models": (pool,), "discovery_interval_s": 0.02}

    async def main() -> None:
        async with bench(arrange, engines=1) as it:
            assert statuses(it) == {}
            assert (await it.ask())[0] == 503
            answers[:] = ["127.0.0.1", "169.254.169.254"]
            one, two = f"http://127.0.0.1:{port}", f"http://127.0.0.2:{port}"
            await it.until(lambda: statuses(it) == {one: "ready"})
            assert (await it.ask())[0] == 200
            answers[:] = ["127.0.0.2", "127.0.0.1"]
            await it.until(lambda: list(statuses(it)) == [one, two])
            answers.clear()
            await asyncio.sleep(0.1)
            assert set(statuses(it)) == {one, two}, "no answer is no news"
            answers[:] = ["127.0.0.2"]
            await it.until(lambda: statuses(it)[one] == "gone")

    asyncio.run(main())
    assert any("link-local" in str(record.__dict__) for record in caplog.records)


def test_a_body_for_a_model_reaches_what_was_registered_for_it() -> None:
    async def main() -> None:
        async with bench(two_models, engines=2, **ANYWHERE) as it:
            _, large = it.fakes
            assert (await it.request("DELETE", "/admin/instances", params={"url": large.url}, headers=ADMIN))[
                0
            ] == 202
            assert (await it.ask(body=BODY | {"model": "large"}))[0] == 503
            await it.until(lambda: statuses(it)[large.url] == "gone")
            assert (await register(it, large.url, model="large"))[0] == 201
            assert (await it.ask(body=BODY | {"model": "large"}))[0] == 200
            assert len(large.asked) == 1

    asyncio.run(main())
