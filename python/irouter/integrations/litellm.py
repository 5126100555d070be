"""A routing strategy for LiteLLM's Router and proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from irouter._extras import MissingExtraError
from irouter.serving.errors import NoInstanceError

try:
    import litellm
    from litellm.integrations.custom_logger import CustomLogger
    from litellm.types.router import CustomRoutingStrategyBase
except ModuleNotFoundError as error:  # it is the host, not an extra of ours
    raise MissingExtraError(
        "irouter.integrations.litellm needs the package `litellm`: pip install litellm"
    ) from error

if TYPE_CHECKING:
    from irouter.serving.lease import Lease
    from irouter.serving.request import RequestFields
    from irouter.serving.router import Router

_LEASE: Final = "irouter_lease"
# Leases that ended by themselves are looked for when there are so many.
_MANY_LEASES: Final = 1024


class IrouterStrategy(CustomRoutingStrategyBase, CustomLogger):  # type: ignore[misc]  # not installed here
    """Lets `irouter.Router` choose among the deployments that LiteLLM finds healthy.

    LiteLLM keeps its cooldowns and filters: what they leave is what is chosen from. A call is counted on its instance
    from the choice until LiteLLM's callback says that it succeeded or failed. LiteLLM says nothing of a call that its
    client cancelled: that one is given back after the router's `lease_ttl_s`.

    Deployments are the router's instances by their `api_base`, with or without `/v1`. One that the router does not know
    is added with the profile that the router was made with.
    """

    def __init__(self, host: litellm.Router, router: Router) -> None:
        """Installs itself in `host`, LiteLLM's Router, and in LiteLLM's callbacks."""
        super().__init__()
        self._host = host
        self._router = router
        self._leases: dict[int, Lease] = {}
        host.set_custom_routing_strategy(self)
        litellm.logging_callback_manager.add_litellm_callback(self)

    async def async_get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, str]] | None = None,
        input: str | list[Any] | None = None,  # noqa: A002 - LiteLLM's name
        specific_deployment: bool | None = False,  # noqa: FBT001, FBT002 - LiteLLM's signature
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The deployment for a call; it may wait in the router's queue."""
        kwargs = {} if request_kwargs is None else request_kwargs
        healthy = await self._host.async_get_healthy_deployments(
            model=model,
            request_kwargs=kwargs,
            messages=messages,
            input=input,
            specific_deployment=specific_deployment,
        )
        if isinstance(healthy, dict):
            return healthy
        by_url, exclude = self._candidates(healthy)
        fields = _fields(messages, input, kwargs)
        lease = await self._router.acquire(exclude=exclude, **fields).__aenter__()
        return self._taken(lease, by_url, kwargs)

    def get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, str]] | None = None,
        input: str | list[Any] | None = None,  # noqa: A002 - LiteLLM's name
        specific_deployment: bool | None = False,  # noqa: ARG002, FBT001, FBT002 - LiteLLM's signature
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The deployment for a call of LiteLLM's synchronous interface; never waits."""
        kwargs = {} if request_kwargs is None else request_kwargs
        healthy, _ = self._host._get_healthy_deployments(model=model, parent_otel_span=None)
        by_url, exclude = self._candidates(healthy)
        lease = self._router.try_route(overtake=True, exclude=exclude, **_fields(messages, input, kwargs))
        if lease is None:
            raise NoInstanceError(f"no deployment of {model} can take the call")
        return self._taken(lease, by_url, kwargs)

    async def async_log_success_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """A call succeeded."""
        self.log_success_event(kwargs, response_obj, start_time, end_time)

    async def async_log_failure_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """A call failed."""
        self.log_failure_event(kwargs, response_obj, start_time, end_time)

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:  # noqa: ARG002 - LiteLLM's signature
        """A call succeeded."""
        lease = self._ended(kwargs)
        if lease is not None:
            tokens = getattr(getattr(response_obj, "usage", None), "completion_tokens", None)
            lease.finish(tokens=tokens or None)

    def log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:  # noqa: ARG002 - LiteLLM's signature
        """A call failed."""
        lease = self._ended(kwargs)
        if lease is not None:
            lease.fail(type(kwargs.get("exception")).__name__)

    def _candidates(self, healthy: list[dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """Healthy deployments by the URL of their instance, and the instances that are not among them."""
        by_url = {_url(deployment): deployment for deployment in healthy}
        known = {instance.url for instance in self._router.instances if instance.status != "gone"}
        for url in sorted(by_url.keys() - known):
            self._router.add_instance(url)
        if not by_url:
            raise NoInstanceError("LiteLLM finds no deployment healthy")
        return by_url, sorted(known - by_url.keys())

    def _taken(
        self, lease: Lease, by_url: dict[str, dict[str, Any]], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        if len(self._leases) >= _MANY_LEASES:
            self._leases = {number: lease for number, lease in self._leases.items() if lease.ending is None}
        self._leases[lease.number] = lease
        # A copy: LiteLLM tries again with the same metadata, and the first try's callback may come after that.
        name = "litellm_metadata" if "litellm_metadata" in kwargs else "metadata"
        kwargs[name] = {**(kwargs.get(name) or {}), _LEASE: lease.number}
        return by_url[lease.url]

    def _ended(self, kwargs: dict[str, Any]) -> Lease | None:
        parameters = kwargs.get("litellm_params") or {}
        for name in ("metadata", "litellm_metadata"):
            number = (parameters.get(name) or {}).get(_LEASE)
            if number is not None:
                return self._leases.pop(number, None)
        return None


def _url(deployment: dict[str, Any]) -> str:
    base = str(deployment["litellm_params"].get("api_base") or "").rstrip("/")
    return base.removesuffix("/v1")


def _fields(
    messages: list[dict[str, str]] | None, text: str | list[Any] | None, kwargs: dict[str, Any]
) -> RequestFields:
    contents = [str(message.get("content") or "") for message in messages or ()]
    if text is not None:
        contents.append(text if isinstance(text, str) else "\n".join(map(str, text)))
    fields: RequestFields = {"prompt": "\n".join(contents)}
    max_tokens = kwargs.get("max_completion_tokens") or kwargs.get("max_tokens")
    if isinstance(max_tokens, int):
        fields["max_tokens"] = max_tokens
    return fields
