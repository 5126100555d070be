"""Settings of the proxy, checked before anything starts."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
from typing import TYPE_CHECKING, Final

from irouter._core import IrouterError
from irouter.evaluation.policies import choice_of
from irouter.serving.proxy.addresses import Allowed, check_dns_url, check_engine_url

if TYPE_CHECKING:
    from irouter.serving.instances import Instance

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
class PoolConfig:
    """Instances that serve one model, with a router of their own.

    Attributes:
        model: What requests call it; None: the only pool, which takes any.
        instances: The engines that are known from the start.
        dns: URLs whose host name stands for one engine at each of its addresses.
        policy: The policy.
        profile: Profile of instances that have none of their own.
        predictor: Folder of a trained predictor of output lengths; without it lengths are learned from what finishes.
        decision_log: Where to write the decision log; nowhere without it.
    """

    model: str | None
    instances: tuple[Instance, ...] = ()
    dns: tuple[str, ...] = ()
    policy: str = "guided"
    profile: str = DEFAULT_PROFILE
    predictor: str | None = None
    decision_log: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ProxyConfig:
    """What the proxy does.

    `instances`, `dns`, `policy`, `profile`, `predictor` and `decision_log` are those of the one pool that there is
    without `models`.

    Attributes:
        instances: The engines.
        models: Several models, each with a pool of its own.
        dns: URLs whose host name stands for one engine at each of its addresses, asked again and again.
        instances_file: File of more engines, which is read again when it changes.
        discovery_interval_s: How often that is looked for.
        slow_start_s: A new instance takes its whole share of requests after so long.
        slow_start_share: The share that it takes at first.
        keys: Keys that clients may use; none: no key is asked for.
        admin_key: Key of the admin API, which there is not without it; it is in no text of this object.
        admin_allowed: Networks such as `10.0.0.0/8` and host names such as `*.engines.local` that engines may be
            registered at.
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
        upstream_ca: File with the certificates of those who may vouch for engines, in place of the system's.
        log_requests: Whether every request is logged, not only what goes wrong.
        tls_certificate: File with the certificates, for https.
        tls_key: File with their key.
        dashboard: Whether there is a dashboard.
        shadow_policies: Policies that the dashboard sets beside the one that runs.
        shadow_interval_s: How often what they would have done is simulated.
        shadow_window_s: Over which time.
    """

    instances: tuple[Instance, ...] = ()
    models: tuple[PoolConfig, ...] = ()
    dns: tuple[str, ...] = ()
    instances_file: str | None = None
    discovery_interval_s: float = 5.0
    slow_start_s: float = 60.0
    slow_start_share: float = 0.25
    keys: tuple[ApiKey, ...] = ()
    admin_key: str | None = dataclasses.field(default=None, repr=False)
    admin_allowed: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8080
    policy: str = "guided"
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
    upstream_ca: str | None = None
    log_requests: bool = False
    tls_certificate: str | None = None
    tls_key: str | None = None
    dashboard: bool = True
    shadow_policies: tuple[str, ...] = ("round_robin", "least_requests")
    shadow_interval_s: float = 10.0
    shadow_window_s: float = 120.0

    def __post_init__(self) -> None:
        self._check_pools()
        if self.daemon is not None:
            self.check_for_daemon()
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not (value >= least and math.isfinite(value)):
                raise IrouterError(f"{name} is {value}, expected at least {least}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise IrouterError(f"{name} is {value}, expected a positive number")
        if self.slow_start_share > 1:
            raise IrouterError(f"slow_start_share is {self.slow_start_share}, expected at most 1")
        for policy in self.shadow_policies:
            if choice_of(policy).is_external:
                raise IrouterError(f"shadow_policies has `{policy}`, expected policies of the package")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise IrouterError(
                "tls_certificate and tls_key are given one without the other, expected both or none"
            )
        self._check_keys()

    def _check_pools(self) -> None:
        names = [pool.model for pool in self.models]
        if len(set(names)) < len(names) or None in names:
            raise IrouterError(f"names of models are {', '.join(map(str, names))}, expected each once")
        if self.models and (self.instances or self.dns or self.decision_log):
            raise IrouterError(
                "there are [[models]], expected a `model` with each instance and a decision_log in each of them"
            )
        for pool in self.pools:
            for url in pool.dns:
                check_dns_url(url)
        urls = [instance.url for pool in self.pools for instance in pool.instances]
        for url in urls:
            check_engine_url(url)
        if len(set(urls)) < len(urls):
            raise IrouterError(f"instances are {', '.join(urls)}, expected each once")

    def check_for_daemon(self) -> PoolConfig:
        """The pool that a daemon serves.

        Raises:
            IrouterError: For several models, and for instances that are not named: who would look for them, the daemon
                or each of its clients?
        """
        if self.models:
            names = ", ".join(f"`{pool.model}`" for pool in self.models)
            raise IrouterError(f"a daemon serves one pool, found the models {names}")
        if self.dns or self.instances_file is not None:
            source = "instances_file" if self.instances_file is not None else "dns"
            raise IrouterError(
                f"a daemon does not look for instances, found `{source}`, expected [[instances]]"
            )
        (pool,) = self.pools
        return pool

    def check_instances(self) -> None:
        """Raises: IrouterError for a pool that has no instance and that nothing could give one."""
        own = self.daemon is None
        more = own and (self.instances_file is not None or self.admin_key is not None)
        for pool in self.pools:
            where = "the proxy" if pool.model is None else f"the model `{pool.model}`"
            if not (pool.instances or pool.dns or more):
                raise IrouterError(f"{where} has no instance, expected at least one: --instance URL")

    def _check_keys(self) -> None:
        names = [key.name for key in self.keys]
        if len(set(names)) < len(names):
            raise IrouterError(f"names of keys are {', '.join(names)}, expected each once")
        if not self.keys and not is_loopback(self.host):
            expected = "set IROUTER_API_KEY, or [[keys]] in the file of --config"
            raise IrouterError(f"host {self.host} is beyond loopback and there is no API key: {expected}")
        if self.admin_key is not None and self.admin_key in {key.secret for key in self.keys}:
            raise IrouterError("the admin key is also the key of a client, expected one of its own")
        Allowed.parse(self.admin_allowed)

    @property
    def has_dashboard(self) -> bool:
        """Whether there is a dashboard: it shows what the routers of this process do, and a daemon's are not."""
        return self.dashboard and self.daemon is None

    @property
    def dashboard_is_there(self) -> bool:
        """Whether anybody may see the dashboard: who has the admin key, or everybody on loopback where no key is."""
        return self.has_dashboard and (self.admin_key is not None or not self.keys)

    @property
    def pools(self) -> tuple[PoolConfig, ...]:
        """One pool for each model, or the one for any."""
        if self.models:
            return self.models
        return (
            PoolConfig(
                None, self.instances, self.dns, self.policy, self.profile, self.predictor, self.decision_log
            ),
        )


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
    "slow_start_s": 0,
}
_POSITIVE: Final = (
    "discovery_interval_s",
    "slow_start_share",
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
    "shadow_interval_s",
    "shadow_window_s",
)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
