"""The claims of replicas on the slots of instances, as Redis keeps them."""

from __future__ import annotations

import dataclasses
import uuid
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from irouter.serving.strangers import Load

LedgerError: Final = redis.RedisError
_SCRIPT: Final = resources.files(__name__.rpartition(".")[0]).joinpath("claim.lua").read_text("utf-8")


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What a replica has on an instance, and would like.

    Attributes:
        slots: Slots of the instance, for all replicas together.
        wanted: How many the replica would like.
        load: What it has there.
    """

    slots: int
    wanted: int
    load: Load


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """What it got.

    Attributes:
        slots: How many slots it may use until its claim expires.
        replicas: Replicas that have claims, itself among them.
        requests: Requests of the others.
        context_tokens: Tokens that those have in the KV cache, of all of them.
        output_tokens: Tokens that they produce on average.
    """

    slots: int
    replicas: int
    requests: int
    context_tokens: int
    output_tokens: int


class Ledger:
    """One replica's access to the claims of its group. One script divides the slots, so that no two get the same."""

    def __init__(self, url: str, group: str, *, ttl_s: float, password: str | None) -> None:
        """Connects when it is first asked."""
        self._replica = uuid.uuid4().hex
        self._ttl_ms = round(1000 * ttl_s)
        # The braces keep a group in one place of a Redis cluster.
        self._prefix = f"irouter:{{{group}}}:"
        self._redis: Any = redis.Redis.from_url(
            url,
            password=password,
            socket_timeout=ttl_s / 4,
            socket_connect_timeout=ttl_s / 4,
            retry=Retry(NoBackoff(), 0),
        )
        self._claim = self._redis.register_script(_SCRIPT)

    def claim(self, wishes: Mapping[str, Wish], *, known: int) -> dict[str, Grant]:
        """Renews the claims on instances, by URL.

        Args:
            wishes: What is wanted of each.
            known: Replicas that were there when Redis last was.

        Raises:
            LedgerError: When Redis does not answer.
        """
        arguments: list[Any] = [self._replica, self._ttl_ms, known]
        for wish in wishes.values():
            load = wish.load
            arguments += [wish.slots, load.requests, wish.wanted, load.context_tokens, load.output_tokens]
        keys = [self._prefix + "began", *map(self._key, wishes)]
        answer = self._claim(keys=keys, args=arguments)
        return {url: Grant(*figures) for url, figures in zip(wishes, answer, strict=True)}

    def withdraw(self, urls: list[str]) -> None:
        """Gives back every claim, and closes the connection.

        Raises:
            LedgerError: When Redis does not answer.
        """
        try:
            for url in urls:
                self._redis.hdel(self._key(url), self._replica)
        finally:
            self._redis.close()

    def _key(self, url: str) -> str:
        return f"{self._prefix}slots:{url}"
