"""Where independent jobs are carried out: on this machine, or on a Ray cluster. What comes out is the same."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from irouter._core import Workload
    from irouter.evaluation.traces import Trace

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Job(Protocol[Result_co]):
    """Some runs of the simulator. It can be pickled, and what comes out depends on nothing else."""

    @property
    def runs(self) -> int:
        """Runs of the simulator, for progress."""

    @property
    def trace(self) -> str | None:
        """Name of the trace that it replays, if it replays one."""

    def run(self, workload: Workload | None, progress: Callable[[], None]) -> Result_co:
        """Runs it on one thread.

        Args:
            workload: The trace that it replays.
            progress: Called after each run of the simulator; ends the job by raising.
        """


class Executor(Protocol):
    """Carries out jobs."""

    def execute(
        self,
        jobs: Sequence[Job[Result]],
        traces: Mapping[str, Trace],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Result]:
        """Carries out jobs, several at a time, and returns their results in order.

        Args:
            jobs: The jobs.
            traces: The traces that they replay, by name.
            progress: Called as `progress(done, total)` in runs of the simulator.

        Raises:
            IrouterError: The first error of a job; the others end.
        """

    @property
    def slots(self) -> int:
        """Jobs at a time."""


class LocalExecutor:
    """Threads of this process: the simulator runs without the interpreter's lock."""

    def __init__(self, threads: int = 0) -> None:
        """So many threads; 0 is one per core."""
        self.slots = threads or os.cpu_count() or 1

    def execute(
        self,
        jobs: Sequence[Job[Result]],
        traces: Mapping[str, Trace],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Result]:
        """As :meth:`Executor.execute`; progress comes after each run of the simulator."""
        total = sum(job.runs for job in jobs)
        workloads = {name: trace.workload() for name, trace in traces.items()}
        lock, stop, done = threading.Lock(), threading.Event(), 0

        def ended() -> None:
            nonlocal done
            if stop.is_set():
                raise InterruptedError
            with lock:
                done += 1
                if progress is not None:
                    progress(done, total)

        with concurrent.futures.ThreadPoolExecutor(self.slots) as pool:
            futures = [
                pool.submit(job.run, None if job.trace is None else workloads[job.trace], ended)
                for job in jobs
            ]
            try:
                return [future.result() for future in futures]
            except BaseException:
                # Runs that nobody waits for any more end at their next report.
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[Executor | None]:
    """The Ray cluster at an address, `None` without one; the connection ends with the context.

    Args:
        address: Address as Ray has it, such as `auto` or `ray://head:10001`; `local` starts a cluster on this machine.

    Raises:
        IrouterError: Without the extra `[ray]`.
    """
    if address is None:
        yield None
        return
    from irouter.evaluation.ray_executor import RayExecutor  # noqa: PLC0415 - only where it is asked for

    with RayExecutor(address) as executor:
        yield executor
