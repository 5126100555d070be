"""Which instances there are: those of the command line and the admin API, of a watched file, and of names in DNS."""

from __future__ import annotations

import asyncio
import dataclasses
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

from irouter._core import IrouterError
from irouter.serving.instances import Instance
from irouter.serving.proxy.addresses import is_forbidden, resolve
from irouter.serving.proxy.config_file import read_instances
from irouter.serving.proxy.journal import LOGGER, note

if TYPE_CHECKING:
    from collections.abc import Mapping

    from irouter.serving.proxy.config import PoolConfig, ProxyConfig
    from irouter.serving.proxy.pool import Pool


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """An instance, and who told of it."""

    model: str | None
    instance: Instance
    source: str


class Discovery:
    """Keeps pools as their sources say.

    A source that cannot be read, or does not resolve, keeps what it said last. An instance that two sources have is
    that of the first: those that were named, then the file, then DNS.
    """

    def __init__(self, pools: Mapping[str | None, Pool], config: ProxyConfig) -> None:
        self._pools = pools
        self._config = config
        self._named = [
            _Found(pool.model, instance, "configuration")
            for pool in config.pools
            for instance in pool.instances
        ]
        self._looked_up: dict[str, list[_Found]] = {}
        self._troubles: dict[str, str] = {}

    async def run(self) -> None:
        """Looks again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(self._config.discovery_interval_s)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - instances that come tomorrow must not depend on a surprise of today
                LOGGER.exception("discovery_failed")

    async def look(self, *, at_start: bool = False) -> None:
        """Asks the sources that may have changed, and follows them.

        Raises:
            IrouterError: At the start, for a file that cannot be read or an instance that cannot be; later it is
                only said.
        """
        if self._config.instances_file is not None:
            self._read_file(Path(self._config.instances_file), at_start=at_start)
        for pool in self._config.pools:
            for url in pool.dns:
                await self._resolve(pool, url)
        self._follow(at_start=at_start)

    def register(self, model: str | None, instance: Instance) -> None:
        """The admin API names an instance.

        Raises:
            IrouterError: When it is there, or cannot be added.
        """
        self._check_own()
        known = self._all().get(instance.url)
        if known is not None:
            raise IrouterError(f"instance {instance.url} is there, from the {known.source}")
        self._pools[model].add(instance, at_start=False)
        self._named.append(_Found(model, instance, "admin API"))

    def unregister(self, url: str) -> None:
        """The admin API takes out an instance that was named.

        Raises:
            IrouterError: When it is not there, or comes from a source that would bring it back.
        """
        self._check_own()
        found = self._all().get(url)
        if found is None:
            raise IrouterError(f"no instance {url}, expected one of: {', '.join(self._all()) or 'none'}")
        if found not in self._named:
            raise IrouterError(f"instance {url} comes from the {found.source}: take it out there")
        self._named.remove(found)
        self._follow(at_start=False)

    def sources(self) -> dict[str, str]:
        """Where each instance comes from, by URL."""
        return {url: found.source for url, found in self._all().items()}

    def _check_own(self) -> None:
        if self._config.daemon is not None:
            raise IrouterError("the instances are those of the daemon, expected to hear of changes there")

    def _all(self) -> dict[str, _Found]:
        found: dict[str, _Found] = {}
        for entry in (*self._named, *(entry for entries in self._looked_up.values() for entry in entries)):
            found.setdefault(entry.instance.url, entry)
        return found

    def _follow(self, *, at_start: bool) -> None:
        wanted = self._all()
        for model, pool in self._pools.items():
            here = {url: entry for url, entry in wanted.items() if entry.model == model}
            for url, instance in pool.instances.items():
                if url not in here or here[url].instance != instance:
                    pool.remove(url)
            for url, entry in here.items():
                if url not in pool.instances:
                    try:
                        pool.add(entry.instance, at_start=at_start)
                    except IrouterError as error:
                        if at_start:
                            raise
                        self._trouble(url, str(error))
                    else:
                        self._troubles.pop(url, None)

    def _read_file(self, path: Path, *, at_start: bool) -> None:
        source = f"file {path.name}"
        try:
            by_model = read_instances(path, self._config.pools)
        except (IrouterError, OSError) as error:
            if at_start:
                raise
            self._trouble(source, str(error))
            return
        self._troubles.pop(source, None)
        self._looked_up[source] = [
            _Found(model, instance, source) for model, instances in by_model.items() for instance in instances
        ]

    async def _resolve(self, pool: PoolConfig, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        source = f"name {parts.netloc}"
        try:
            addresses = await resolve(parts.hostname or "", parts.port or 80)
        except OSError as error:
            self._trouble(source, f"{parts.hostname} does not resolve: {error.strerror}")
            return
        self._troubles.pop(source, None)
        found = []
        for address in addresses:
            if is_forbidden(address):
                self._trouble(f"{source} {address}", f"address {address} is link-local or no host's")
                continue
            shown = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004 - the version
            at = f"http://{shown}:{parts.port or 80}{parts.path.rstrip('/')}"
            found.append(_Found(pool.model, Instance(at, pool.profile), source))
        self._looked_up[f"{pool.model} {source}"] = found

    def _trouble(self, source: str, reason: str) -> None:
        """Says what is wrong with a source, once for each reason."""
        if self._troubles.get(source) != reason:
            self._troubles[source] = reason
            note("discovery_failed", source=source, reason=reason)
