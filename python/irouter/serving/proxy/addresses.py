"""Where the proxy may connect to: never to link-local or metadata addresses, and for the admin API where it is told."""

from __future__ import annotations

import asyncio
import dataclasses
import fnmatch
import ipaddress
import re
import socket
import urllib.parse
from typing import TYPE_CHECKING, Final

from aiohttp.resolver import ThreadedResolver

from irouter._core import IrouterError
from irouter.serving.instances import check_url

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp.abc import ResolveResult

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Metadata services of clouds outside of the link-local networks: Amazon's by IPv6, Alibaba's, Oracle's.
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))
# Where IPv6 networks carry IPv4 addresses, in the last 32 bits.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_HOST_PATTERN: Final = re.compile(r"[a-z0-9*?._-]*[a-z*?][a-z0-9*?._-]*", re.IGNORECASE)


def is_forbidden(address: Address) -> bool:
    """Whether no engine can be there: link-local, metadata, multicast or no address of a host."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_forbidden(inner)
    return address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA


def literal(host: str) -> Address | None:
    """The address that a host is, where it is one and not a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


async def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a host, in order.

    Raises:
        OSError: When there is none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = {ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found}
    return sorted(addresses, key=lambda address: (address.version, int(address)))


def check_engine_url(url: str) -> None:
    """Raises: IrouterError for what is not the base URL of an instance, or an address where none can be."""
    check_url(url)
    address = literal(urllib.parse.urlsplit(url).hostname or "")
    if address is not None and is_forbidden(address):
        raise IrouterError(f"instance URL {url!r}: no engine is at {address}, expected the address of a host")


def check_dns_url(url: str) -> None:
    """Raises: IrouterError for what is no `http://NAME:PORT` whose name stands for several engines."""
    check_url(url)
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "http" or literal(parts.hostname or "") is not None:
        raise IrouterError(f"dns URL {url!r}: expected http://NAME:PORT: certificates are not for addresses")


@dataclasses.dataclass(frozen=True, slots=True)
class Allowed:
    """Where engines may be registered.

    An address has to be in one of the networks. A name has to match one of the patterns, and what it resolves to has to
    be in one of the networks; without networks it must not be loopback. What `is_forbidden` is never allowed.

    Attributes:
        networks: Networks.
        patterns: Patterns of host names, with `*` and `?`.
    """

    networks: tuple[Network, ...]
    patterns: tuple[str, ...]

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Allowed:
        """Reads networks such as `10.0.0.0/8` and patterns such as `*.engines.local`.

        Raises:
            IrouterError: For what is neither.
        """
        networks: list[Network] = []
        patterns: list[str] = []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry))
            except ValueError as error:
                if _HOST_PATTERN.fullmatch(entry) is None:
                    expected = "a network such as 10.0.0.0/8 or a host name, maybe with *"
                    raise IrouterError(f"admin_allowed has {entry!r:.60}, expected {expected}") from error
                patterns.append(entry.lower())
        return cls(tuple(networks), tuple(patterns))

    async def check(self, url: str) -> None:
        """Raises: IrouterError for the URL of an engine that must not be registered."""
        check_url(url)
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        if parts.path not in {"", "/"}:
            raise IrouterError(f"instance URL {url!r}: it has a path, expected http://HOST:PORT")
        address = literal(host)
        if address is not None:
            if is_forbidden(address) or not self._in_networks(address):
                raise _refused(url, f"address {address}")
            return
        if not any(fnmatch.fnmatchcase(host.lower(), pattern) for pattern in self.patterns):
            raise _refused(url, f"host {host}")
        try:
            addresses = await resolve(host, parts.port or 80)
        except OSError as error:
            raise IrouterError(f"instance URL {url!r}: {host} does not resolve") from error
        for address in addresses:
            if not self.permits(address):
                raise _refused(url, f"address {address} of {host}")

    def permits(self, address: Address) -> bool:
        """Whether a name that is allowed may stand for this address."""
        if is_forbidden(address):
            return False
        return self._in_networks(address) if self.networks else not address.is_loopback

    def _in_networks(self, address: Address) -> bool:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self.networks)


def _refused(url: str, what: str) -> IrouterError:
    return IrouterError(f"instance URL {url!r}: {what} is not allowed, expected one that admin_allowed names")


class GuardedResolver(ThreadedResolver):
    """Resolves names for connections, anew each time, and leaves out what they must not stand for.

    A name that was fine when it was registered may stand for something else later.
    """

    def __init__(self, allowed: Allowed) -> None:
        super().__init__()
        self._allowed = allowed
        self._registered: set[str] = set()

    def registered(self, url: str) -> None:
        """The host of a URL came from the admin API: what it stands for has to be allowed."""
        self._registered.add(urllib.parse.urlsplit(url).hostname or "")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host that may be connected to.

        Raises:
            OSError: When there is none.
        """
        found = await super().resolve(host, port, family)
        fit = [
            entry
            for entry in found
            if self._fits(host, ipaddress.ip_address(entry["host"].partition("%")[0]))
        ]
        if not fit:
            raise OSError(f"{host} stands for no address that is allowed")
        return fit

    def _fits(self, host: str, address: Address) -> bool:
        if host.lower() in self._registered:
            return self._allowed.permits(address)
        return not is_forbidden(address)
