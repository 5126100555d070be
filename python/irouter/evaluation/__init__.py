"""Comparisons of policies: traces, experiments, statistics and reports."""

from irouter.evaluation.comparison import Comparison, Point, Simulation, compare, simulate
from irouter.evaluation.settings import Settings
from irouter.evaluation.traces import Trace, read_trace

__all__ = ["Comparison", "Point", "Settings", "Simulation", "Trace", "compare", "read_trace", "simulate"]
