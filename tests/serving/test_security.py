"""What SECURITY.md promises of the proxy."""

import asyncio
import base64
import ipaddress
import json
import logging
import socket
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from irouter import IrouterError
from irouter.serving import Instance
from irouter.serving.proxy import ApiKey, ProxyConfig, read_config
from irouter.serving.proxy.addresses import Allowed, GuardedResolver, is_forbidden
from irouter.serving.proxy.config import is_loopback
from irouter.serving.proxy.journal import LOGGER, JsonFormatter
from serving.fakes import BODY, PROFILE, bench

ADMIN = {"Authorization": "Bearer admin-secret"}
DASHBOARD = ("/dashboard", "/dashboard/state", "/dashboard/dashboard.js", "/dashboard/dashboard.css")
CLIENTS = ("/v1/models", "/metrics")


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"me:{password}".encode()).decode()}


def test_by_default_it_listens_on_loopback_and_has_no_admin_api() -> None:
    config = ProxyConfig(instances=(Instance("http://a", PROFILE),))
    assert (config.host, is_loopback(config.host), config.admin_key, config.admin_allowed) == (
        "127.0.0.1",
        True,
        None,
        (),
    )
    for host in ("0.0.0.0", "::", "10.0.0.7", "example.com", ""):  # noqa: S104 - it is refused
        with pytest.raises(IrouterError, match="beyond loopback and there is no API key"):
            ProxyConfig(instances=config.instances, host=host)
        with pytest.raises(IrouterError, match="beyond loopback"):
            ProxyConfig(instances=config.instances, host=host, admin_key="an admin key is for no client")
    for address in ("169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "0.0.0.0"):  # noqa: S104 - refused
        with pytest.raises(IrouterError, match="no engine is at"):
            ProxyConfig(instances=(Instance(f"http://{address}:80", PROFILE),))
    with pytest.raises(IrouterError, match="also the key of a client"):
        ProxyConfig(instances=config.instances, keys=(ApiKey("a", "same"),), admin_key="same")


@pytest.mark.parametrize(
    ("keys", "admin", "given", "clients", "admins", "dashboard"),
    [
        # Nobody has a key: clients and the dashboard are open, on loopback.
        (False, False, {}, 200, 404, 200),
        (False, False, ADMIN, 200, 404, 200),
        # Clients have keys: the dashboard is not theirs.
        (True, False, {}, 401, 404, 404),
        (True, False, {"Authorization": "Bearer client-secret"}, 200, 404, 404),
        # There is an admin key: it opens the admin API and the dashboard, and nothing of clients.
        (True, True, {}, 401, 401, 401),
        (True, True, {"Authorization": "Bearer client-secret"}, 200, 401, 401),
        (True, True, ADMIN, 401, 200, 200),
        (True, True, basic("admin-secret"), 401, 401, 200),
        (True, True, basic("client-secret"), 401, 401, 401),
        (False, True, {}, 200, 401, 401),
        (False, True, ADMIN, 200, 200, 200),
        (True, True, {"Authorization": "Basic !!!"}, 401, 401, 401),
        (True, True, {"Authorization": "Basic /w=="}, 401, 401, 401),
    ],
)
def test_who_gets_in_where(
    *, keys: bool, admin: bool, given: dict[str, str], clients: int, admins: int, dashboard: int
) -> None:
    settings: dict[str, Any] = {"keys": (ApiKey("team", "client-secret"),)} if keys else {}
    if admin:
        settings["admin_key"] = "admin-secret"

    async def main() -> None:
        async with bench(**settings) as it:
            assert [(await it.get(path, headers=given))[0] for path in CLIENTS] == [clients] * len(CLIENTS)
            assert (await it.ask(headers=given))[0] == clients
            assert [(await it.get(path, headers=given))[0] for path in DASHBOARD] == [dashboard] * 4
            for method in ("GET", "POST", "DELETE"):
                status, _, _ = await it.request(method, "/admin/instances", headers=given)
                expected = {"GET": 200, "POST": 400, "DELETE": 400}[method]
                assert status == (expected if admins == 200 else admins)
            for path in (
                "/%61dmin/instances",
                "/admin%2Finstances",
                "//admin/instances",
                "/x/../admin/instances",
            ):
                async with it.session.get(URL(it.url + path, encoded=True), headers=given) as answer:
                    assert (answer.status == 200) <= (admins == 200), "however it is written"
            assert (await it.get("/health"))[0] == 200

    asyncio.run(main())


def test_the_open_dashboard_is_not_for_pages_of_other_names() -> None:
    async def main() -> None:
        async with bench() as it:
            for host in ("localhost", "127.0.0.1:80", "[::1]:8080"):
                assert (await it.get("/dashboard/state", headers={"Host": host}))[0] == 200, host
            for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""):
                status, body, _ = await it.request("GET", "/dashboard/state", headers={"Host": host})
                assert (status, "instances" in body) == (404, False), host

    asyncio.run(main())


def test_the_dashboard_takes_nothing_from_elsewhere() -> None:
    async def main() -> None:
        async with bench() as it:
            for path in DASHBOARD:
                status, text, headers = await it.request("GET", path)
                assert status == 200
                policy = dict(
                    part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
                )
                assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
                assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert headers["Cache-Control"] == "no-store"
                addresses = text.replace("http://www.w3.org/2000/svg", "").replace(it.fakes[0].url, "")
                assert "https://" not in addresses
                if path != "/dashboard/state":
                    assert "http://" not in addresses
                assert "innerHTML" not in text
            for path in ("/dashboard/../app.py", "/dashboard/%2e%2e/app.py", "/dashboard/none.js"):
                assert (await it.get(path))[0] == 404
        async with bench(dashboard=False) as it:
            assert [(await it.get(path))[0] for path in DASHBOARD] == [404] * 4

    asyncio.run(main())


ALLOWED = ("10.0.0.0/8", "fd12::/16", "*.engines.test", "localhost")


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]",
        "http://[64:ff9b::a9fe:a9fe]",
        "http://[fe80::1]",
        "http://[fe80::1%25eth0]",
        "http://[fd00:ec2::254]",
        "http://100.100.100.200",
        "http://0.0.0.0:8000",
        "http://[::]:8000",
        "http://224.0.0.1",
        "http://127.0.0.1:6379",
        "http://[::1]:6379",
        "http://[::ffff:127.0.0.1]:6379",
        "http://2130706433",
        "http://0x7f000001",
        "http://127.1",
        "http://localhost:6379",
        "http://192.168.0.1",
        "http://metadata.google.internal",
        "http://evil.test#.engines.test",
        "http://evil.test/.engines.test",
        "http://evil.test?.engines.test",
        "http://10.0.0.1@evil.test",
        "http://user:password@10.0.0.1",
        "http://metadata.engines.test",
        "http://inside.engines.test",
        "http://nowhere.engines.test",
        "file:///etc/passwd",
        "gopher://10.0.0.1",
        "http://10.0.0.1/admin",
        "//10.0.0.1",
        "10.0.0.1:8000",
        "",
    ],
)
@pytest.mark.usefixtures("names")
def test_an_instance_that_is_not_allowed_is_not_registered(url: str) -> None:
    async def main() -> None:
        async with bench(admin_key="admin-secret", admin_allowed=ALLOWED) as it:
            before = len(it.router.instances)
            status, text, _ = await it.request("POST", "/admin/instances", json={"url": url}, headers=ADMIN)
            assert status == 400, text
            assert "password" not in text.replace("user name or password", "")
            assert len(it.router.instances) == before

    asyncio.run(main())


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of the domain `test`, and what they stand for."""
    known = {
        "good.engines.test": "10.1.2.3",
        "metadata.engines.test": "169.254.169.254",
        "inside.engines.test": "127.0.0.1",
    }
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if not str(name).endswith(".test"):
            return real(host, port, *arguments, **options)
        if name not in known:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known[name], port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    "url", ["http://10.9.8.7:8000", "http://good.engines.test:8000", "http://[fd12::1]:8000"]
)
@pytest.mark.usefixtures("names")
def test_an_instance_that_is_allowed_is_registered(url: str) -> None:
    async def main() -> None:
        async with bench(admin_key="admin-secret", admin_allowed=ALLOWED) as it:
            status, text, _ = await it.request("POST", "/admin/instances", json={"url": url}, headers=ADMIN)
            assert status == 201, text

    asyncio.run(main())


@pytest.mark.usefixtures("names")
def test_nothing_is_allowed_unless_it_is_named() -> None:
    allowed = Allowed.parse(())
    for url in ("http://10.0.0.1", "http://good.engines.test", "http://127.0.0.1"):
        with pytest.raises(IrouterError, match="not allowed, expected one that admin_allowed names"):
            asyncio.run(allowed.check(url))
    asyncio.run(Allowed.parse(["*.engines.test"]).check("http://good.engines.test"))
    with pytest.raises(IrouterError, match=r"address 127\.0\.0\.1 of inside"):
        asyncio.run(Allowed.parse(["*.engines.test"]).check("http://inside.engines.test"))


def test_a_name_that_stands_for_something_else_later_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = "10.1.2.3"

    def getaddrinfo(_host: Any, port: Any, *_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (now, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def main() -> None:
        nonlocal now
        allowed = Allowed.parse(["10.0.0.0/8", "*.engines.test"])
        resolver = GuardedResolver(allowed)
        await allowed.check("http://a.engines.test:80")
        resolver.registered("http://a.engines.test:80")
        assert [entry["host"] for entry in await resolver.resolve("a.engines.test", 80)] == ["10.1.2.3"]
        for later in ("127.0.0.1", "169.254.169.254", "192.168.1.1"):
            now = later
            with pytest.raises(OSError, match="no address that is allowed"):
                await resolver.resolve("a.engines.test", 80)
        now = "127.0.0.1"
        assert await resolver.resolve("configured.test", 80), "the operator's own word"
        now = "169.254.169.254"
        with pytest.raises(OSError, match="no address that is allowed"):
            await resolver.resolve("configured.test", 80)

    asyncio.run(main())


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "127.0.0.1", "8.8.8.8", "::1", "fd12::1"])
def test_addresses_of_hosts_are_not_forbidden_as_such(address: str) -> None:
    assert not is_forbidden(ipaddress.ip_address(address))


def test_an_engine_cannot_send_the_proxy_elsewhere() -> None:
    asked: list[str] = []

    async def secret(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text="metadata-secret")

    async def main() -> None:
        inside = web.Application()
        inside.add_routes([web.route("*", "/{path:.*}", secret)])
        async with TestServer(inside) as target:

            async def redirect(_request: web.Request) -> web.StreamResponse:
                return web.Response(status=307, headers={"Location": str(target.make_url("/meta"))})

            app = web.Application()
            app.add_routes([web.route("*", "/{path:.*}", redirect)])
            async with TestServer(app) as engine:
                url = str(engine.make_url("")).rstrip("/")
                instances = (Instance(url, PROFILE),)
                async with bench(lambda _: {"instances": instances}) as it:
                    status, body, _ = await it.ask()
                    assert (status, b"metadata" in body) == (502, False)
                    status, text, _ = await it.request("GET", "/v1/models", allow_redirects=False)
                    assert (status, "metadata" in text) == (307, False)
                    await it.until(lambda: not it.pools[None].is_well)
        assert asked == []

    asyncio.run(main())


def test_secrets_are_in_no_log_metric_answer_or_text(caplog: pytest.LogCaptureFixture) -> None:
    secrets = ("client-secret", "admin-secret", "engine-secret", "wrong-secret")
    settings: dict[str, Any] = {
        "keys": (ApiKey("team", secrets[0]),),
        "admin_key": secrets[1],
        "upstream_key": secrets[2],
        "log_requests": True,
    }
    seen: list[str] = [repr(ProxyConfig(instances=(Instance("http://a", PROFILE),), **settings))]

    async def main() -> None:
        async with bench(**settings) as it:
            it.fakes[0].handler = it.fakes[0].garbage
            for name in secrets:
                for headers in (
                    {"Authorization": f"Bearer {name}"},
                    basic(name),
                    {"x-irouter-priority": name},
                ):
                    for path in (*CLIENTS, *DASHBOARD, "/admin/instances", f"/{name}"):
                        seen.append((await it.get(path, headers=headers))[1])
                    seen.append(
                        (await it.ask(headers=headers, body=BODY | {"user": name}))[1].decode("latin-1")
                    )
            assert {entry["authorization"] for fake in it.fakes for entry in fake.asked} == {
                "Bearer engine-secret"
            }

    with caplog.at_level(logging.INFO, LOGGER.name):
        asyncio.run(main())
    assert len(caplog.records) > 20
    seen += [JsonFormatter().format(record) for record in caplog.records]
    # What a client says in its own header is told back to it, and to nobody else.
    assert [
        text for text in seen if any(name in text for name in secrets) and "x-irouter-priority" not in text
    ] == []


def test_what_is_logged_is_json_without_what_clients_sent() -> None:
    record = logging.LogRecord("irouter.serve", logging.INFO, "", 0, "request", None, None)
    record.fields = {"endpoint": "/v1/completions", "code": 200}
    line = json.loads(JsonFormatter().format(record))
    assert (line["event"], line["level"], line["code"]) == ("request", "info", 200)


def test_keys_are_read_from_the_environment_alone(tmp_path: Any) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text('admin_key = "x"\n[[instances]]\nurl = "http://a"\n')
    with pytest.raises(IrouterError, match="unknown setting `admin_key`; did you mean `admin_key_env`"):
        read_config(path, {}, environment={})
    path.write_text('admin_key_env = "KEY"\n[[instances]]\nurl = "http://a"\n')
    with pytest.raises(IrouterError, match="KEY is not set"):
        read_config(path, {}, environment={})
    assert read_config(path, {}, environment={"KEY": "k"}).admin_key == "k"
    path.write_text('[[instances]]\nurl = "http://a"\n')
    assert read_config(path, {}, environment={"IROUTER_ADMIN_KEY": "k"}).admin_key == "k"


def test_a_trace_context_is_passed_on_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    context = {
        "traceparent": f"00-{trace}-00f067aa0ba902b7-01",
        "tracestate": "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
        "baggage": "user.tier=gold,region=eu",
    }

    async def main() -> None:
        async with bench(log_requests=True) as it:
            assert (await it.ask(headers=context))[0] == 200
            assert (await it.ask(body=BODY | {"stream": True}, headers=context))[0] == 200
            assert (await it.ask("/v1/embeddings", headers=context))[0] == 200
            it.fakes[0].handler = it.fakes[1].handler = it.fakes[0].trouble
            await it.ask(headers=context)
            asked = [entry for fake in it.fakes for entry in fake.asked]
            assert len(asked) == 5, "the last was sent again"
            assert all(entry | context == entry for entry in asked)
            assert (await it.ask(headers={"traceparent": "garbage\t"}))[0] == 503

    with caplog.at_level(logging.INFO, LOGGER.name):
        asyncio.run(main())
    logged = [record.fields for record in caplog.records if record.message == "request"]  # type: ignore[attr-defined]
    assert [fields.get("trace") for fields in logged] == [trace] * 4 + [None]
