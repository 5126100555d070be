"""Gateways under an event script: their real binaries before fake engines."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance.fake_engines import MODEL, FakeEngines, Load
from conformance.http_client import HOST, AnswerError, free_ports, request
from conformance.scripts import Event

START_SECONDS = 60
ANSWER_SECONDS = 20
STOP_SECONDS = 10
PAUSE_SECONDS = 0.01
# From an engine's answer to a poll until the gateway decides by it.
READING_SECONDS = 0.05


@dataclass(frozen=True)
class Gateway:
    """How one gateway is started and told of its workers."""

    command: Sequence[str]
    add_worker: tuple[str, str]
    """Method and path; `{url}` in the path, or the address in the body."""
    keeps_order: bool
    """Whether its policies see the workers in the order in which they came; else in the order of its list."""
    arguments: Sequence[str] = ()
    loads_page: str = "/v1/loads"
    dialect: str = "vllm"


GATEWAYS = {
    "vllm-router": Gateway(
        command=["bin/vllm-router"],
        add_worker=("POST", "/add_worker?url={url}"),
        keeps_order=False,
        arguments=["--disable-retries", "--disable-circuit-breaker"],
        loads_page="/get_load",
    ),
    "sglang-router": Gateway(
        command=["bin/python", "-m", "sglang_router.launch_router"],
        add_worker=("POST", "/workers"),
        keeps_order=False,
        arguments=["--disable-retries", "--disable-circuit-breaker"],
        loads_page="/get_load",
        dialect="sglang",
    ),
    "smg": Gateway(
        command=["bin/smg", "launch"],
        add_worker=("POST", "/workers"),
        keeps_order=True,
        arguments=["--disable-retries", "--disable-circuit-breaker"],
    ),
}


@dataclass
class Session:
    """A running gateway, its engines in the order in which its policies see them, and the requests in flight."""

    gateway: Gateway
    port: int
    engines: FakeEngines
    order: list[int] = field(default_factory=list)
    answers: dict[int, asyncio.Task[Any]] = field(default_factory=dict)
    held: dict[int, int] = field(default_factory=dict)
    polls: list[int] = field(default_factory=list)
    """How often each engine had been polled when the gateway was last known to have read what they said."""

    async def workers(self) -> dict[int, int]:
        """The number of each engine and the requests that the gateway counts on it, in the order of its list."""
        numbers = {url: number for number, url in enumerate(self.engines.urls)}
        listed = (await request(self.port, "GET", "/workers"))["workers"]
        return {numbers[worker["url"]]: worker["load"] for worker in listed if worker["is_healthy"]}

    async def add_workers(self, known: int) -> None:
        """Tells the gateway of all but the first `known` engines, one after the other."""
        method, path = self.gateway.add_worker
        for number, url in enumerate(self.engines.urls):
            if number >= known:
                await request(
                    self.port, method, path.format(url=url), None if "{url}" in path else {"url": url}
                )
            while len(await self.workers()) <= number:  # noqa: ASYNC110 - another process
                await asyncio.sleep(PAUSE_SECONDS)
        self.polls = self.engines.polls(self.gateway.loads_page)
        self.order = sorted(await self.workers()) if self.gateway.keeps_order else list(await self.workers())

    async def submit(self, event: Event) -> list[int]:
        """Sends a request through the gateway and waits until an engine has it."""
        body = {"model": MODEL, "prompt": event["text"], "max_tokens": 1}
        key = str(event.get("session", event["request"]))
        headers = {"x-session-id": key, "x-smg-routing-key": key}
        answer = asyncio.create_task(request(self.port, "POST", "/v1/completions", body, headers))
        arrival = asyncio.create_task(self.engines.arrivals.get())
        await asyncio.wait([answer, arrival], timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not arrival.done():
            arrival.cancel()
            raise AnswerError(f"request {event['request']} reached no engine: {answer}")
        held, engine = arrival.result()
        self.answers[event["request"]], self.held[event["request"]] = answer, held
        return [self.order.index(engine)]

    async def finished(self, event: Event) -> None:
        """Ends a request and waits until the gateway counts it no more."""
        self.engines.release(self.held.pop(event["request"]))
        await asyncio.wait_for(self.answers.pop(event["request"]), ANSWER_SECONDS)
        # A gateway whose policy does not count lists no requests at all.
        while sum((await self.workers()).values()) > len(self.held):  # noqa: ASYNC110 - another process
            await asyncio.sleep(PAUSE_SECONDS)

    async def report(self, event: Event) -> None:
        """Sets what an engine will say of itself; the gateway knows when it has polled."""
        self.engines.engines[self.order[event["instance"]]].load = Load(
            running=event["running"],
            waiting=event["waiting"],
            queued_prefill_tokens=event["queued_prefill_tokens"],
            kv_usage=event["kv_usage"],
        )

    async def polled(self, _event: Event) -> None:
        """Waits until the gateway has asked every engine again, from now on."""
        page = self.gateway.loads_page
        await asyncio.wait_for(self.engines.polled(page, self.engines.polls(page)), START_SECONDS)

    async def reports(self) -> list[Event]:
        """What the gateway has read by polling since the last call."""
        page = self.gateway.loads_page
        if self.engines.polls(page) == self.polls:
            return []
        await asyncio.wait_for(self.engines.polled(page, self.polls), ANSWER_SECONDS)
        await asyncio.sleep(READING_SECONDS)
        self.polls = self.engines.polls(page)
        loads = (self.engines.engines[number].load for number in self.order)
        return [{"event": "report", "instance": n, **vars(load)} for n, load in enumerate(loads)]


@dataclass(frozen=True)
class Setup:
    """A gateway with a policy, and the engines behind it."""

    name: str
    environment: Path
    policy: str
    instances: int
    arguments: Sequence[str]
    tells_load: bool
    """Whether the engines have the page that the gateway polls."""


@contextlib.asynccontextmanager
async def running(setup: Setup) -> AsyncIterator[Session]:
    """Starts a gateway and its engines, and ends them."""
    gateway = GATEWAYS[setup.name]
    port, prometheus_port = await free_ports(2)
    # It refuses to start power of two with one worker; elsewhere, workers that come one by one have a known order.
    known = setup.instances if setup.policy == "power_of_two" else 1
    program, *rest = gateway.command
    async with FakeEngines(setup.instances, gateway.dialect if setup.tells_load else None) as engines:
        command = [
            str(setup.environment / program), *rest, "--host", HOST, "--port", str(port), "--policy", setup.policy,
            "--prometheus-port", str(prometheus_port), "--worker-urls", *engines.urls[:known], "--log-level", "error",
            *gateway.arguments, *setup.arguments,
        ]  # fmt: skip
        with tempfile.TemporaryFile() as log:
            process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
            session = Session(gateway, port, engines)
            try:
                async with asyncio.timeout(START_SECONDS):
                    await ready(session, process, log)
                    await session.add_workers(known)
                yield session
            finally:
                await stop(process, session)


async def ready(session: Session, process: asyncio.subprocess.Process, log: Any) -> None:
    """Waits until the gateway takes requests."""
    while True:
        if process.returncode is not None:
            log.seek(0)
            raise RuntimeError(
                f"the gateway ended with {process.returncode}: {log.read().decode(errors='replace')}"
            )
        with contextlib.suppress(OSError, AnswerError):
            if await session.workers():
                return
        await asyncio.sleep(PAUSE_SECONDS)


async def stop(process: asyncio.subprocess.Process, session: Session) -> None:
    for answer in session.answers.values():
        answer.cancel()
    await asyncio.gather(*session.answers.values(), return_exceptions=True)
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


async def drive(setup: Setup, events: Sequence[Event]) -> tuple[list[Event], list[list[int]]]:
    """Runs an event script on a gateway.

    Returns:
        What the gateway came to know, in order: the script, with reports where it polled; and where each request went.
    """
    known: list[Event] = []
    decisions: list[list[int]] = []
    async with running(setup) as session:
        if any(event["event"] == "polled" for event in events):
            await session.polled({})
            await session.reports()
        for event in events:
            answer = await getattr(session, event["event"])(event)
            if event["event"] in {"submit", "finished"}:
                known.append(event)
            if answer is not None:
                decisions.append(answer)
            known.extend(await session.reports())
    return known, decisions
