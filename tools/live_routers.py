"""Routers in front of the same engines, each started the way its own documents say.

`irouter serve` with a policy, alone or as four replicas; the `vllm-router` and the LiteLLM proxy of the virtual
environments that `make peers` makes.
"""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from irouter._core import IrouterError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from irouter.serving.demo.processes import Processes

REPLICAS: Final = 4
LITELLM_KEY: Final = "sk-only-on-this-machine"
_ROOT: Final = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """A router that takes requests.

    Attributes:
        urls: Where; several for replicas.
        api_key: The key that it asks for, if any.
    """

    urls: tuple[str, ...]
    api_key: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a router is started.

    Attributes:
        processes: What runs it.
        folder: For its settings.
        engines: URLs of the engines.
        profile: What `irouter serve` is told that they are like: a name or a file.
        log: Where an `irouter serve` that decides by itself writes its decisions; nowhere without it.
    """

    processes: Processes
    folder: Path
    engines: Sequence[str]
    profile: str
    log: Path | None = None

    def instances(self) -> list[str]:
        """The engines, as options of irouter."""
        return [argument for url in self.engines for argument in ("--instance", url)]


def serve(policy: str) -> Callable[[Place], Coroutine[None, None, Started]]:
    """`irouter serve` with a policy, all else as it comes."""

    async def start(place: Place) -> Started:
        options = ["--policy", policy, "--profile", place.profile, *place.instances()]
        if place.log is not None:
            options += ["--decision-log", str(place.log)]
        return Started((await place.processes.start("serve", "--port", "0", *options),))

    return start


async def replicas_of_daemon(place: Place) -> Started:
    """Several proxies of one host, for which one daemon decides."""
    options = ("--profile", place.profile, *place.instances())
    path = await place.processes.start("daemon", str(place.folder / "irouter.sock"), *options)
    return await _replicas(place, f"daemon = {json.dumps(path)}")


async def replicas_of_redis(place: Place) -> Started:
    """Several proxies that divide the engines through a Redis of their own."""
    port = free_port()
    options = ("--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(place.folder))
    await place.processes.launch("redis-server", *options, port=port)
    return await _replicas(place, f'redis = "redis://127.0.0.1:{port}/0"')


async def replicas_alone(place: Place) -> Started:
    """Several proxies that know of each other by the engines' metrics only."""
    return await _replicas(place, "poll_s = 1\nshared_instances = true")


async def _replicas(place: Place, settings: str) -> Started:
    config = place.folder / "replica.toml"
    config.write_text(f"profile = {json.dumps(place.profile)}\n{settings}\n", encoding="utf-8")
    options = ("--port", "0", "--config", str(config), *place.instances())
    return Started(tuple([await place.processes.start("serve", *options) for _ in range(REPLICAS)]))


def vllm_router(policy: str) -> Callable[[Place], Coroutine[None, None, Started]]:
    """The `vllm-router` program with a policy, all else as it comes."""

    async def start(place: Place) -> Started:
        port, prometheus_port = free_port(), free_port()
        await place.processes.launch(
            _environment("vllm-router") / "vllm-router",
            *("--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(prometheus_port)),
            *("--policy", policy, "--log-level", "error", "--worker-urls", *place.engines),
            port=port,
        )
        return Started((f"http://127.0.0.1:{port}",))

    return start


def litellm(strategy: str) -> Callable[[Place], Coroutine[None, None, Started]]:
    """The LiteLLM proxy with one of its strategies and one worker, without a database."""

    async def start(place: Place) -> Started:
        port = free_port()
        models = [
            {
                "model_name": "m",
                "litellm_params": {
                    "model": "text-completion-openai/m",
                    "api_base": f"{url}/v1",
                    "api_key": "none",
                },
            }
            for url in place.engines
        ]
        config = place.folder / "litellm.yaml"
        # JSON is YAML.
        config.write_text(
            json.dumps({"model_list": models, "router_settings": {"routing_strategy": strategy}}),
            encoding="utf-8",
        )
        await place.processes.launch(
            _environment("litellm") / "litellm",
            *("--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"),
            port=port,
            environment={
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_MASTER_KEY": LITELLM_KEY,
                "LITELLM_LOG": "ERROR",
                "LITELLM_MODE": "PRODUCTION",
            },
        )
        return Started((f"http://127.0.0.1:{port}",), LITELLM_KEY)

    return start


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _environment(package: str) -> Path:
    programs = _ROOT / f".venv-{package}" / "bin"
    if not programs.is_dir():
        raise IrouterError(f"{programs.parent.name} is missing, expected after `make peers`")
    return programs
