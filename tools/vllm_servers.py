"""Real vLLM servers on CPU, in the environment that `make vllm-environment` makes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
ENVIRONMENT: Final = ROOT / ".venv-vllm"
CHECKPOINT: Final = ENVIRONMENT / "smollm2"
MODEL: Final = "smollm2"
MAX_NUM_SEQS: Final = 8
MAX_MODEL_LEN: Final = 2048
MAX_NUM_BATCHED_TOKENS: Final = 2048
# Minutes on a core that nobody else uses.
_START_S: Final = 1800.0
_STOP_S: Final = 20.0


def is_installed() -> bool:
    """Whether there is an environment to run them in."""
    return (ENVIRONMENT / ".installed").exists()


@contextlib.contextmanager
def two_servers(folder: Path) -> Iterator[list[VllmServer]]:
    """Two that answer, on a core each; their logs go to the folder.

    Raises:
        RuntimeError: When one does not start.
    """
    deadline_s = time.monotonic() + _START_S
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(VllmServer(port, core, folder / f"vllm-{core}.log"))
            for core, port in enumerate(_free_ports(2))
        ]
        for server in servers:
            server.wait(deadline_s)
        yield servers


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for taken in sockets:
            taken.bind(("127.0.0.1", 0))
        return [taken.getsockname()[1] for taken in sockets]


class VllmServer:
    """A server on one core.

    Args:
        port: Where it listens on the loopback address.
        core: The core that its threads run on.
        log: File for what it prints.
    """

    def __init__(self, port: int, core: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log: IO[bytes] = log.open("wb")
        command = [
            *(str(ENVIRONMENT / "bin/python"), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(CHECKPOINT), "--served-model-name", MODEL, "--dtype", "float32"),
            *("--max-num-seqs", str(MAX_NUM_SEQS), "--max-model-len", str(MAX_MODEL_LEN)),
            *("--max-num-batched-tokens", str(MAX_NUM_BATCHED_TOKENS), "--generation-config", "vllm"),
            # A prompt that is half cached is computed in other sizes, and its logits round otherwise.
            "--no-enable-prefix-caching",
            # What compiling gains over a test, it takes at the start.
            "--enforce-eager",
            *("--host", "127.0.0.1", "--port", str(port)),
        ]
        paths = f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
        settings = {
            "VIRTUAL_ENV": str(ENVIRONMENT),
            "PATH": paths,
            "VLLM_CPU_OMP_THREADS_BIND": str(core),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self.process = subprocess.Popen(  # noqa: S603 - a fixed command
            command,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=os.environ | settings,
            start_new_session=True,
        )

    def wait(self, deadline_s: float) -> None:
        """Waits until it answers, at most until `time.monotonic()` is `deadline_s`.

        Raises:
            RuntimeError: When it ends or the time is up, with what it printed last.
        """
        while True:
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5):  # noqa: S310 - our own server
                    return
            except OSError:
                time.sleep(1.0)
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                printed = Path(self._log.name).read_text(errors="replace")[-2000:]
                raise RuntimeError(f"vLLM at {self.url} did not start: {printed}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            # Its engine is a process of its own.
            os.killpg(self.process.pid, 9)
            self.process.wait()
        self._log.close()
