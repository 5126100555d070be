"""Jobs on a Ray cluster, with the extra `[ray]`."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from irouter._core import IrouterError
from irouter._extras import require

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from irouter.evaluation.executors import Job
    from irouter.evaluation.traces import Trace

Result = TypeVar("Result")

LOCAL: Final = "local"
"""The address of a cluster that is started on this machine and ends with its executor."""

# How often the job of a lost worker is run again before it is taken for the job's fault.
_RETRIES: Final = 5
# Seconds until a host that does not answer is taken for dead.
_CONNECT_S: Final = 5.0


class RayExecutor:
    """A Ray cluster: one job per core, each trace sent once, the jobs of lost workers run again.

    Every node needs the same version of this package. It connects when it is first used. Use it as a context: the
    connection ends with it, unless the caller had connected before.

    Example:
        with RayExecutor("auto") as executor:
            comparison = irouter.compare("conversation", seeds=20, executor=executor)
    """

    def __init__(self, address: str) -> None:
        """The cluster at an address.

        Args:
            address: Address of a cluster as Ray has it, such as `auto` or `ray://head:10001`, or `local`.

        Raises:
            IrouterError: Without the extra `[ray]`.
        """
        self._ray: Any = require("ray", extra="ray", purpose="a Ray cluster")
        self._address = address
        self._connected = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connected:
            self._ray.shutdown()

    @property
    def slots(self) -> int:
        """Jobs at a time: cores of the cluster.

        Raises:
            IrouterError: When there is no cluster at the address.
        """
        self._connect()
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        _refuse_dead(self._address)
        options = {"include_dashboard": False} if self._address == LOCAL else {}
        try:
            self._ray.init(address=self._address, logging_level="error", log_to_driver=False, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise IrouterError(f"no Ray cluster at `{self._address}`: {error}") from error
        self._connected = True

    def execute(
        self,
        jobs: Sequence[Job[Result]],
        traces: Mapping[str, Trace],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Result]:
        """As :meth:`irouter.evaluation.executors.Executor.execute`; progress comes after each job.

        Raises:
            IrouterError: The first error of a job, for a job whose worker is lost again and again, or when there is no
                cluster at the address.
        """
        self._connect()
        ray = self._ray
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_carry_out)
        stored = {name: ray.put(trace) for name, trace in traces.items()}
        references = [task.remote(job, None if job.trace is None else stored[job.trace]) for job in jobs]
        positions = {reference: position for position, reference in enumerate(references)}
        results: dict[int, Result] = {}
        done, total, pending = 0, sum(job.runs for job in jobs), list(references)
        try:
            while pending:
                (ready, *_), pending = ray.wait(pending, num_returns=1)
                position = positions[ready]
                results[position] = ray.get(ready)
                done += jobs[position].runs
                if progress is not None:
                    progress(done, total)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except (ray.exceptions.RayError, ConnectionError) as error:
            reason = str(error).partition("\n")[0]
            raise IrouterError(f"a job did not come back from the Ray cluster: {reason}") from error
        finally:
            for reference in pending:
                ray.cancel(reference)
        return [results[position] for position in range(len(jobs))]


def _refuse_dead(address: str) -> None:
    """Raises for a host and port where nobody listens, which Ray would go on trying for minutes.

    Raises:
        IrouterError: Naming the address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise IrouterError(f"no Ray cluster at `{address}`: {error}") from error


def _carry_out(job: Job[Result], trace: Trace | None) -> Result:
    """The task: what a worker does."""
    return job.run(None if trace is None else trace.workload(), _nobody_asks)


def _nobody_asks() -> None:
    """Progress within a job, which stays on its worker."""
