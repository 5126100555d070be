"""A request router for Ray Serve."""

from __future__ import annotations

import contextlib
import functools
import importlib
from typing import TYPE_CHECKING, Any, Final

from irouter._core import IrouterError
from irouter._extras import MissingExtraError
from irouter.serving import NoInstanceError, Router, connect
from irouter.serving.openai import request_fields

try:
    from ray.serve.request_router import RequestRouter
except ModuleNotFoundError as error:  # it is the host: the extra [ray] has Ray without Serve
    raise MissingExtraError(
        'irouter.integrations.ray_serve needs the package `ray` with Serve: pip install "ray[serve]"'
    ) from error

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from irouter.serving.base_router import BaseRouter
    from irouter.serving.lease import Lease
    from irouter.serving.request import RequestFields

    Describe = Callable[[list[Any], dict[str, Any]], RequestFields]

# What a request is taken to be whose arguments say nothing of it.
_PROMPT_TOKENS: Final = 512


def describe(arguments: list[Any], named: dict[str, Any]) -> RequestFields:
    """What the arguments of a call say of it: the body of an OpenAI request, as a dictionary or a model.

    `ray.serve.llm` calls deployments with such models; calls of your own may pass dictionaries.
    """
    for value in (*arguments, *named.values()):
        body = value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else value
        if isinstance(body, dict) and ("prompt" in body or "messages" in body):
            return request_fields(body)
    return {"prompt_tokens": _PROMPT_TOKENS}


class IrouterRequestRouter(RequestRouter):  # type: ignore[misc]  # not typed for us
    """Has `irouter.Router` choose among the replicas of a deployment.

    A request waits in the router's queue while the policy holds, and is counted on its replica until Serve says
    that it is complete. A replica that rejects it, for it has its `max_ongoing_requests`, is left out the next time.
    """

    def initialize_state(
        self,
        *,
        policy: str = "guided",
        profile: str = "llama-3.1-8b@h100",
        daemon: str | None = None,
        describe: str | Describe = describe,
        **options: Any,
    ) -> None:
        """Takes `request_router_kwargs`.

        Args:
            policy: As for `irouter.Router`.
            profile: What a replica is like.
            daemon: Socket of an `irouter daemon` that decides, so that all handles of a host share one queue;
                without it each handle decides for itself.
            describe: Function, or its path `MODULE:NAME`, of a call's arguments and named arguments; what the router
                is told of it.
            **options: Others of `irouter.Router`.
        """
        self._profile = profile
        self._describe = _imported(describe) if isinstance(describe, str) else describe
        self._leases: dict[str, Lease] = {}
        self._urls: dict[str, Any] = {}
        self.router: BaseRouter = (
            Router(policy=policy, profile=profile, **options) if daemon is None else connect(daemon)
        )

    def update_replicas(self, replicas: list[Any]) -> None:
        """Serve says which replicas there are."""
        super().update_replicas(replicas)
        urls = {_url(replica.replica_id): replica for replica in replicas}
        for url in self._urls.keys() - urls.keys():
            self._remove(url)
        for url in urls.keys() - self._urls.keys():
            # Of a daemon another handle may have told it.
            with contextlib.suppress(IrouterError):
                self.router.add_instance(url, profile=self._profile)
        self._urls = urls

    def on_replica_actor_died(self, replica_id: Any) -> None:
        """A replica died, and its requests with it."""
        super().on_replica_actor_died(replica_id)
        self._remove(_url(replica_id))
        self._urls.pop(_url(replica_id), None)

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any | None = None
    ) -> list[list[Any]]:
        """The replica that the router has decided on; none while it has none that takes requests."""
        if pending_request is None:
            return [candidate_replicas]
        key = pending_request.metadata.internal_request_id
        before = self._leases.pop(key, None)
        if before is not None:
            before.cancel()
        exclude = () if before is None else (before.url,)
        fields = self._describe(list(pending_request.args), dict(pending_request.kwargs))
        session = pending_request.metadata.session_id
        if session:
            fields.setdefault("session", session)
        try:
            lease = await self.router.acquire(exclude=exclude, **fields).__aenter__()
        except NoInstanceError:
            return []
        replica = self._urls.get(lease.url)
        if replica is None:
            lease.cancel()
            return []
        self._leases[key] = lease
        # A request that is cancelled before it is sent never completes.
        pending_request.future.add_done_callback(functools.partial(self._decided, key))
        return [[replica]]

    def _decided(self, key: str, decided: asyncio.Future[Any]) -> None:
        if decided.cancelled() and (lease := self._leases.pop(key, None)) is not None:
            lease.cancel()

    def on_request_completed(self, _replica_id: Any, internal_request_id: str) -> None:
        """A request is complete, or broke: Serve does not say which."""
        lease = self._leases.pop(internal_request_id, None)
        if lease is not None:
            lease.finish()

    def _remove(self, url: str) -> None:
        with contextlib.suppress(IrouterError):
            self.router.remove_instance(url)


def _url(replica_id: Any) -> str:
    """The name of a replica among instances: no request goes there by HTTP."""
    return f"http://{replica_id.unique_id}"


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise IrouterError(f"describe is {path!r}, expected MODULE:NAME of a function: {error}") from error
