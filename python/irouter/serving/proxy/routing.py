"""The router behind the proxy: of its own process, or the daemon that it shares with others."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from irouter._core import IrouterError
from irouter.serving.daemon import DaemonRouter
from irouter.serving.poller import MetricsPoller
from irouter.serving.replicas import Replica
from irouter.serving.router import Router

if TYPE_CHECKING:
    from collections.abc import Iterator

    from irouter.serving.base_router import BaseRouter
    from irouter.serving.clocked_core import Observer
    from irouter.serving.foresight import Predictor, PredictorFront
    from irouter.serving.proxy.config import PoolConfig, ProxyConfig


def local_router(
    pool: PoolConfig,
    proxy: ProxyConfig,
    predictor: Predictor | PredictorFront | None,
    observe: Observer | None = None,
) -> Router:
    """A router of this process for a pool, as the settings say."""
    return Router(
        pool.instances,
        pool.policy,
        profile=pool.profile,
        predictor=predictor,
        seed=proxy.seed,
        max_hold_s=proxy.max_hold_s,
        lease_ttl_s=proxy.lease_ttl_s,
        max_waiting=proxy.max_waiting,
        shared_instances=proxy.shared_instances,
        tenant_weights={key.name: key.weight for key in proxy.keys},
        log=pool.decision_log,
        observe=observe,
    )


def upstream_tls(config: ProxyConfig) -> ssl.SSLContext | None:
    """How engines are known: by the certificates of a file; None: by those of the system.

    Raises:
        IrouterError: For a file that cannot be read.
    """
    if config.upstream_ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=config.upstream_ca)
    except (OSError, ssl.SSLError) as error:
        raise IrouterError(f"upstream_ca {config.upstream_ca}: {error}") from error


@contextlib.contextmanager
def attended(router: BaseRouter, config: ProxyConfig) -> Iterator[None]:
    """Reads the metrics of the router's engines meanwhile, and divides them with other hosts, as the settings say.

    A daemon does both once, for all its clients.
    """
    with contextlib.ExitStack() as stack:
        if config.redis is not None and isinstance(router, Router):
            replica = Replica(
                router,
                config.redis,
                group=config.redis_group,
                slots_per_instance=config.slots_per_instance or None,
                password=os.environ.get("IROUTER_REDIS_PASSWORD"),
            )
            stack.enter_context(replica)
        if config.poll_s > 0 and isinstance(router, Router):
            key = config.upstream_key
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            poller = MetricsPoller(
                router,
                interval_s=config.poll_s,
                timeout_s=config.health_timeout_s,
                headers=headers,
                tls=upstream_tls(config),
            )
            stack.enter_context(poller)
        yield


def make_router(
    pool: PoolConfig,
    proxy: ProxyConfig,
    predictor: Predictor | PredictorFront,
    observe: Observer | None = None,
) -> BaseRouter:
    """The router that the settings ask for; `observe` hears of a router of this process alone.

    Raises:
        DisconnectedError: When it is a daemon that is not there.
        IrouterError: When the daemon does not know the instances of the settings.
    """
    if proxy.daemon is None:
        return local_router(pool, proxy, predictor, observe)
    # The log of the settings is the daemon's.
    alone = dataclasses.replace(pool, decision_log=None)
    fallback = local_router(alone, proxy, predictor) if proxy.daemon_fallback else None
    router = DaemonRouter(Path(proxy.daemon), predictor=predictor, fallback=fallback)
    there = {instance.url for instance in router.instances if instance.status != "gone"}
    missing = [instance.url for instance in pool.instances if instance.url not in there]
    if missing:
        router.close()
        known = ", ".join(sorted(there)) or "none"
        raise IrouterError(f"the daemon has no instance {', '.join(missing)}, expected some of: {known}")
    return router
