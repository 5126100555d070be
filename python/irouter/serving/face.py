"""What leases and routers ask of who keeps the requests: the machine in this process, or a daemon's client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from irouter._core import Impact
    from irouter.serving.instances import InstanceStatus, LoadedProfile
    from irouter.serving.lease import Ending, Lease, RouterStatistics, Ticket
    from irouter.serving.request import ReadyRequest
    from irouter.serving.slow_start import Ramp


class RequestLimits(Protocol):
    """What requests are made ready for."""

    @property
    def block_tokens(self) -> int:
        """Tokens of a KV block."""

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and output together."""


class MachineFace(Protocol):
    """Keeps requests and instances. `irouter.serving.machine.Machine` says what each call does."""

    def submit(
        self,
        request: ReadyRequest,
        make_wake: Callable[[], Callable[[], object]],
        exclude: tuple[str, ...] = (),
    ) -> Ticket:
        """Takes a request in."""

    def place(self, request: ReadyRequest, *, overtake: bool, exclude: tuple[str, ...]) -> Ticket | None:
        """Takes a request in and sends it at once."""

    def lease(self, ticket: Ticket) -> Lease:
        """The lease of a ticket that was decided."""

    def first_token(self, ticket: Ticket, cached_tokens: int | None) -> None:
        """The first token of a request came."""

    def progress(self, ticket: Ticket, tokens: int) -> None:
        """A request has produced so many tokens."""

    def end(self, ticket: Ticket, ending: Ending, *, tokens: int | None = None, reason: str = "") -> None:
        """A request ends."""

    def end_soon(self, ticket: Ticket, ending: Ending) -> None:
        """A request ends; takes no lock."""

    def impact(self, request: ReadyRequest) -> Sequence[tuple[str, Impact]]:
        """What placing a request would cost, by URL."""

    def join(self, url: str, profile: LoadedProfile | None, ramp: Ramp) -> None:
        """An instance takes requests from now on, few at first where its ramp is long."""

    def drain(self, url: str) -> None:
        """An instance takes no more requests."""

    def resume(self, url: str) -> None:
        """An instance that was draining takes requests again."""

    def take_back(self, url: str, ramp: Ramp) -> None:
        """The same, as one that joins where nothing is on it."""

    def leave(self, url: str) -> None:
        """An instance is gone."""

    def report(self, url: str, figures: dict[str, Any]) -> None:
        """An engine reported its metrics."""

    def report_lost(self, url: str) -> None:
        """An engine reports no more."""

    def instances(self) -> list[InstanceStatus]:
        """Every instance."""

    def statistics(self) -> RouterStatistics:
        """What it has done so far."""

    @property
    def profiles(self) -> Sequence[RequestLimits]:
        """What the instances that are there can take."""

    def close(self) -> None:
        """Refuses all that waits and all that comes."""
