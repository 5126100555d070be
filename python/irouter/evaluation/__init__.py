"""Comparisons of policies: traces, experiments, statistics and reports."""

from irouter.evaluation.capacity_search import Capacity, PolicyCapacity, Probe, capacity
from irouter.evaluation.comparison import Comparison, Point, Simulation, compare, simulate
from irouter.evaluation.settings import Settings
from irouter.evaluation.traces import Trace, read_trace
from irouter.evaluation.tuning import Tuned, tune

__all__ = [
    "Capacity",
    "Comparison",
    "Point",
    "PolicyCapacity",
    "Probe",
    "Settings",
    "Simulation",
    "Trace",
    "Tuned",
    "capacity",
    "compare",
    "read_trace",
    "simulate",
    "tune",
]
