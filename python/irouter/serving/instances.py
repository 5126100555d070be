"""Instances by URL, and the numbers that the state machine knows them by."""

from __future__ import annotations

import dataclasses
import json
import urllib.parse
from typing import TYPE_CHECKING, Any

from irouter import profiles
from irouter._core import IrouterError

if TYPE_CHECKING:
    from pathlib import Path

    from irouter._core import Router as Core


@dataclasses.dataclass(frozen=True, slots=True)
class Instance:
    """An engine behind a URL.

    Attributes:
        url: Base URL, such as `http://10.0.0.7:8000`; it must not carry a user name or password.
        profile: What the router believes the engine to be: a shipped profile by name or a `.json` file.
    """

    url: str
    profile: str | Path


def check_url(url: str) -> None:
    """Raises: IrouterError for what is not the base URL of an instance."""
    parts = urllib.parse.urlsplit(url)
    if parts.username is not None or parts.password is not None:
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        raise IrouterError(f"instance URL {shown}: it carries a user name or password, expected none")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise IrouterError(f"instance URL {url!r}: expected http://HOST:PORT or https://HOST:PORT")


@dataclasses.dataclass(frozen=True, slots=True)
class InstanceStatus:
    """An instance as the router sees it.

    Attributes:
        url: Its URL.
        status: `ready`, `draining` or `gone`.
        generation: How often its number was given up and taken again.
        in_flight: Requests on it.
        awaiting_first_token: Those of them whose first token has not come.
        queued_prefill_tokens: Prompt tokens of those, less what its prefix cache is expected to hold.
        prompt_tokens: Prompt tokens of all requests on it.
        produced_tokens: Output tokens that they are known to have produced.
        remaining_output_tokens: Output tokens that they are expected to produce yet.
        work_s: Predicted seconds of its time that they still take.
        kv_capacity_tokens: Tokens that its KV cache holds.
        strangers: Requests of others on it, counted in what is above: known where instances are shared.
        report_age_s: Seconds since its engine's last report; None where it does not report.
        share: How much of what others take it may take: below 1 while it starts slowly.
    """

    url: str
    status: str
    generation: int
    in_flight: int
    awaiting_first_token: int
    queued_prefill_tokens: int
    prompt_tokens: int
    produced_tokens: int
    remaining_output_tokens: float
    work_s: float
    kv_capacity_tokens: int
    strangers: int
    report_age_s: float | None
    share: float


class LoadedProfile:
    """A profile, read once.

    Attributes:
        name: Its name.
        text: It as JSON.
        max_model_len: Most tokens of prompt and output together.
        max_num_seqs: Most requests that run at once.
        block_tokens: Tokens of a KV block.
        kv_tokens: Tokens that the KV cache holds.
        has_prefix_cache: Whether it keeps prefixes.
    """

    def __init__(self, profile: str | Path | dict[str, Any]) -> None:
        """Reads a shipped profile by name or a file; what was read before is checked.

        Raises:
            IrouterError: Naming what is wrong.
        """
        data = profiles.check(profile) if isinstance(profile, dict) else profiles.load(profile)
        self.name: str = data["name"]
        self.text = json.dumps(data, separators=(",", ":"))
        self.max_model_len: int = data["max_model_len"]
        self.max_num_seqs: int = data["scheduler"]["max_num_seqs"]
        self.block_tokens: int = data["kv"]["block_tokens"]
        self.kv_tokens: int = data["kv"]["blocks"] * self.block_tokens
        self.has_prefix_cache: bool = data["kv"].get("prefix_cache", False)


@dataclasses.dataclass(slots=True)
class _Seat:
    url: str
    profile: LoadedProfile
    status: str = "ready"


class InstanceTable:
    """Which number stands for which URL.

    A URL that comes back gets the number that it had, if nobody else has it. A new URL takes over the number
    of one that is gone, so that memory is bounded by the instances of a time, not of all times.
    """

    def __init__(self) -> None:
        self._seats: list[_Seat] = []

    def free_number(self, url: str) -> int:
        """The number that `url` would get.

        Raises:
            IrouterError: When it is there.
        """
        gone = [number for number, seat in enumerate(self._seats) if seat.status == "gone"]
        for number, seat in enumerate(self._seats):
            if seat.url == url:
                if seat.status == "gone":
                    return number
                raise IrouterError(f"instance {url} is there and {seat.status}, expected a new one")
        return gone[0] if gone else len(self._seats)

    def join(self, number: int, url: str, profile: LoadedProfile) -> None:
        """Notes that `url` has the number from now on."""
        seat = _Seat(url, profile)
        if number == len(self._seats):
            self._seats.append(seat)
        else:
            self._seats[number] = seat

    def number(self, url: str) -> int:
        """The number of an instance that is there.

        Raises:
            IrouterError: When it is not.
        """
        for number, seat in enumerate(self._seats):
            if seat.url == url and seat.status != "gone":
                return number
        known = ", ".join(seat.url for seat in self._seats if seat.status != "gone") or "none"
        raise IrouterError(f"no instance {url}, expected one of: {known}")

    def numbers(self, urls: tuple[str, ...]) -> list[int]:
        """Numbers of those of `urls` that are there."""
        return [
            number for number, seat in enumerate(self._seats) if seat.url in urls and seat.status != "gone"
        ]

    def url(self, number: int) -> str:
        """The URL behind a number."""
        return self._seats[number].url

    def profile(self, number: int) -> LoadedProfile:
        """The profile of the instance behind a number."""
        return self._seats[number].profile

    def status(self, number: int) -> str:
        """`ready`, `draining` or `gone`."""
        return self._seats[number].status

    def set_status(self, number: int, status: str) -> None:
        """Notes that an instance drains or is gone."""
        self._seats[number].status = status

    def join_all(self, core: Core) -> None:
        """Has every instance join a new state machine at its time 0."""
        for number, seat in enumerate(self._seats):
            core.join(number, seat.profile.text, now_s=0.0)

    def all_leave_again(self, core: Core) -> None:
        """Has those leave again that are gone."""
        for number, seat in enumerate(self._seats):
            if seat.status == "gone":
                core.leave(number, now_s=0.0)

    def present(self) -> list[tuple[int, str]]:
        """Numbers and URLs of the instances that are there."""
        return [(number, seat.url) for number, seat in enumerate(self._seats) if seat.status != "gone"]

    @property
    def ready(self) -> list[int]:
        """Numbers of the instances that take requests, as far as their operator is concerned."""
        return [number for number, seat in enumerate(self._seats) if seat.status == "ready"]

    @property
    def profiles(self) -> list[LoadedProfile]:
        """Profiles of the instances that are there."""
        return [seat.profile for seat in self._seats if seat.status != "gone"]

    def describe(self, figures: list[dict[str, Any]]) -> list[InstanceStatus]:
        """The instances with what the state machine says of them; the status is the operator's."""
        own = {"instance", "status", "work_seconds"}
        return [
            InstanceStatus(
                url=seat.url,
                status=seat.status,
                work_s=entry["work_seconds"],
                **{name: entry[name] for name in entry if name not in own},
            )
            for seat, entry in zip(self._seats, figures, strict=True)
        ]
