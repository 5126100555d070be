"""Settings of the proxy, from a TOML file and the command line, checked before anything starts."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import os
import tomllib
from typing import TYPE_CHECKING, Any, Final

from irouter._core import IrouterError
from irouter._names import unknown
from irouter.serving.instances import Instance, check_url

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEFAULT_PROFILE: Final = "llama-3.1-8b@h100"


@dataclasses.dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that clients may use.

    Attributes:
        name: Who has it: the tenant of its requests.
        secret: The key; it is in no text of this object.
        weight: The tenant's share of the central queue.
    """

    name: str
    secret: str = dataclasses.field(repr=False)
    weight: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class ProxyConfig:
    """What the proxy does.

    Attributes:
        instances: The engines.
        keys: Keys that clients may use; none: no key is asked for.
        host: Address to listen on; beyond loopback there must be a key.
        port: Port; 0 for a free one.
        reuse_port: Whether several processes may listen on the port, among which the kernel divides connections.
        policy: The policy.
        predictor: Folder of a trained predictor of output lengths; without it lengths are learned from what finishes.
        profile: Profile of instances that have none of their own.
        seed: Seed of the policy's random choices.
        max_hold_s: The longest that a request is held while an engine has room.
        max_waiting: Requests that may wait; one more gets status 429.
        queue_timeout_s: The longest that a request waits in all.
        lease_ttl_s: A request of which nothing is heard for so long counts as failed.
        request_timeout_s: The longest that an engine may take for an answer.
        connect_timeout_s: The longest that a connection to an engine may take.
        read_timeout_s: The longest silence of an engine in a streamed answer.
        max_body_bytes: Largest body of a request.
        retries: How often a request is sent again, elsewhere, when an engine fails before its first byte.
        retry_delay_s: Mean of the random delay before that.
        failures_to_open: So many failures in a row take an instance out.
        open_s: It stays out for so long at least.
        poll_s: Metrics of engines are read this often; never where it is 0. A daemon reads them itself.
        shared_instances: Whether others send requests to the engines too, whom metrics then show.
        redis: URL of the Redis through which routers of several hosts divide the engines; its password is in the
            environment variable `IROUTER_REDIS_PASSWORD`. A daemon does that for its clients.
        redis_group: Routers of one group share engines.
        slots_per_instance: Most requests on an engine at a time, of all those routers; 0: as its profile has it.
        health_interval_s: How often its health is asked for.
        health_timeout_s: The longest that it may take to answer that.
        drain_s: After SIGTERM the requests in flight have so long to finish.
        daemon: Socket of the `irouter daemon` that decides; without it this process does.
        daemon_fallback: Whether this process decides while the daemon is away; else requests get status 503 then.
        decision_log: Where to write the decision log; nowhere without it. A daemon's is written by the daemon.
        upstream_key: Key that engines are asked with; it is in no text of this object.
        log_requests: Whether every request is logged, not only what goes wrong.
        tls_certificate: File with the certificates, for https.
        tls_key: File with their key.
    """

    instances: tuple[Instance, ...]
    keys: tuple[ApiKey, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8080
    policy: str = "least_work"
    predictor: str | None = None
    profile: str = DEFAULT_PROFILE
    seed: int = 0
    max_hold_s: float = 60.0
    max_waiting: int = 1000
    queue_timeout_s: float = 120.0
    lease_ttl_s: float = 900.0
    request_timeout_s: float = 600.0
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 120.0
    max_body_bytes: int = 16 << 20
    retries: int = 2
    retry_delay_s: float = 0.05
    failures_to_open: int = 3
    open_s: float = 10.0
    poll_s: float = 0.0
    redis: str | None = None
    redis_group: str = "default"
    slots_per_instance: int = 0
    shared_instances: bool = False
    health_interval_s: float = 5.0
    health_timeout_s: float = 2.0
    drain_s: float = 30.0
    daemon: str | None = None
    daemon_fallback: bool = False
    reuse_port: bool = False
    decision_log: str | None = None
    upstream_key: str | None = dataclasses.field(default=None, repr=False)
    log_requests: bool = False
    tls_certificate: str | None = None
    tls_key: str | None = None

    def __post_init__(self) -> None:
        for instance in self.instances:
            check_url(instance.url)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not (value >= least and math.isfinite(value)):
                raise IrouterError(f"{name} is {value}, expected at least {least}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise IrouterError(f"{name} is {value}, expected a positive number")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise IrouterError(
                "tls_certificate and tls_key are given one without the other, expected both or none"
            )
        names = [key.name for key in self.keys]
        if len(set(names)) < len(names):
            raise IrouterError(f"names of keys are {', '.join(names)}, expected each once")
        if not self.keys and not _is_loopback(self.host):
            expected = "set IROUTER_API_KEY, or [[keys]] in the file of --config"
            raise IrouterError(f"host {self.host} is beyond loopback and there is no API key: {expected}")


_LEAST: Final = {
    "port": 0,
    "seed": 0,
    "max_waiting": 0,
    "retries": 0,
    "retry_delay_s": 0,
    "drain_s": 0,
    "poll_s": 0,
    "slots_per_instance": 0,
    "failures_to_open": 1,
}
_POSITIVE: Final = (
    "max_hold_s",
    "queue_timeout_s",
    "lease_ttl_s",
    "request_timeout_s",
    "connect_timeout_s",
    "read_timeout_s",
    "max_body_bytes",
    "open_s",
    "health_interval_s",
    "health_timeout_s",
)
_TABLES: Final = ("instances", "keys")


def read_config(
    path: Path | None,
    changes: Mapping[str, Any],
    *,
    environment: Mapping[str, str] = os.environ,
    needs_instance: bool = True,
) -> ProxyConfig:
    """Settings from a TOML file, then `changes`, each by the names of `ProxyConfig`.

    `[[instances]]` have `url` and maybe `profile`; `[[keys]]` have `name`, `env` (the variable that holds the
    key) and maybe `weight`; `upstream_key_env` names the variable with the key for engines. Without `[[keys]]`
    the variable `IROUTER_API_KEY` is the only key, where it is set. Secrets are not in the file.

    Raises:
        IrouterError: Naming the setting, or for no instance where one is needed: a daemon's may come later.
    """
    data = _read(path) if path is not None else {}
    settings: dict[str, Any] = {}
    for name, value in data.items():
        if name in _TABLES or name == "upstream_key_env":
            continue
        if name not in _KINDS:
            raise unknown(
                "setting", name, [*_KINDS, *_TABLES, "upstream_key_env"], "docs/serve.md lists them"
            )
        settings[name] = _checked(name, value, _KINDS[name])
    settings |= {name: value for name, value in changes.items() if value is not None and name != "instances"}
    profile = settings.get("profile", DEFAULT_PROFILE)
    urls = changes.get("instances") or ()
    tables = [{"url": url} for url in urls] or _tables(data, "instances", {"url": str, "profile": str})
    if needs_instance and not tables:
        raise IrouterError("the proxy has no instance, expected at least one: --instance URL")
    settings["instances"] = tuple(Instance(table["url"], table.get("profile", profile)) for table in tables)
    keys = _tables(data, "keys", {"name": str, "env": str, "weight": float})
    if not keys and environment.get("IROUTER_API_KEY"):
        keys = [{"name": "default", "env": "IROUTER_API_KEY"}]
    settings["keys"] = tuple(
        ApiKey(table["name"], _secret(table["env"], environment), table.get("weight", 1.0)) for table in keys
    )
    if "upstream_key_env" in data:
        settings["upstream_key"] = _secret(
            _checked("upstream_key_env", data["upstream_key_env"], str), environment
        )
    return ProxyConfig(**settings)


def _kind(annotation: str) -> type:
    return {"int": int, "float": float, "bool": bool}.get(annotation, str)


_KINDS: Final = {
    field.name: _kind(str(field.type))
    for field in dataclasses.fields(ProxyConfig)
    if field.name not in {*_TABLES, "upstream_key"}
}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise IrouterError(f"no file {path}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise IrouterError(f"{path.name}: not TOML: {error}") from error


def _checked(name: str, value: Any, kind: type) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise IrouterError(f"setting `{name}` is {value!r:.60}, expected {_EXPECTED[kind]}")
    return value


_EXPECTED: Final = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _tables(data: dict[str, Any], name: str, kinds: dict[str, type]) -> list[dict[str, Any]]:
    tables = data.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise IrouterError(f"`{name}` is {tables!r:.60}, expected tables [[{name}]]")
    for table in tables:
        for field, value in table.items():
            if field not in kinds:
                raise unknown(f"setting of [[{name}]]", field, kinds, f"there are {', '.join(kinds)}")
            table[field] = _checked(f"{name}.{field}", value, kinds[field])
        missing = [field for field in list(kinds)[:-1] if field not in table]
        if missing:
            raise IrouterError(f"[[{name}]] has no `{missing[0]}`, expected one")
    return tables


def _secret(variable: str, environment: Mapping[str, str]) -> str:
    secret = environment.get(variable)
    if not secret:
        raise IrouterError(f"the environment variable {variable} is not set, expected a key in it")
    return secret


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
