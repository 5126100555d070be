"""Runs a suite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from irouter import _core
from irouter.bench import suite_files
from irouter.bench.capacity_figures import capacity_entry
from irouter.bench.figures import entry, speeds
from irouter.bench.plan import make_plan, refuse_unknown
from irouter.bench.result import FORMAT, sealed
from irouter.bench.trace_files import TraceFolder
from irouter.evaluation.executors import LocalExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from irouter.bench.result import Result
    from irouter.evaluation.executors import Executor


def run(
    suite: str | Path = "v1",
    *,
    policies: Sequence[str] | None = None,
    points: Sequence[str] | None = None,
    mode: str = "standard",
    traces: str | Path | None = None,
    threads: int = 0,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Measures policies at the points of a suite.

    Args:
        suite: Name of a shipped suite, or a `.toml` file.
        policies: The policies, in place of the suite's; its reference runs with them.
        points: Points or sweeps by name; all of the suite without them.
        mode: How much is run, such as `quick`.
        traces: Folder with the traces; points without theirs are skipped and listed.
        threads: Runs at a time; 0 is one per core. The figures do not depend on it.
        executor: Where to run in place of threads of this machine. The figures do not depend on it.
        progress: Called as `progress(done, total)` after each run of the simulator.

    Raises:
        IrouterError: For bad input, naming the value and what was expected.
    """
    loaded = suite_files.load(suite)
    folder = TraceFolder(None if traces is None else Path(traces))
    plan = make_plan(loaded, loaded.mode(mode), loaded.select(points), policies, folder)
    refuse_unknown(plan, with_external=True)
    jobs = [list(planned.jobs()) for planned in plan.points]
    results = iter(
        (executor or LocalExecutor(threads)).execute(
            [job for of_point in jobs for job in of_point], plan.traces, progress=progress
        )
    )
    done = [
        (planned, [(job, next(results)) for job in of_point])
        for planned, of_point in zip(plan.points, jobs, strict=True)
    ]
    return sealed(
        {
            "format": FORMAT,
            "version": _core.VERSION,
            "suite": loaded.name,
            "mode": mode,
            "policies": None if policies is None else list(policies),
            "points": [entry(*each) for each in done if each[0].point.kind == "compare"],
            "capacity": [capacity_entry(*each) for each in done if each[0].point.kind == "capacity"],
            "skipped": [
                {"name": point.name, "title": point.title, "trace_source": source}
                for point, source in plan.skipped
            ],
            "speed": speeds([each for _, of_point in done for each in of_point]),
        }
    )
