"""Latency-aware routing of LLM requests: a router to embed, its simulator, and comparisons of policies.

Importing this package imports NumPy and the compiled core, nothing heavier.
"""

from irouter import _core
from irouter._core import Decision, Impact, IrouterError, Profile, Workload
from irouter.evaluation import (
    Capacity,
    Comparison,
    Point,
    Settings,
    Simulation,
    Trace,
    Tuned,
    capacity,
    compare,
    read_trace,
    simulate,
    tune,
)
from irouter.serving import DaemonRouter, Instance, Lease, Router, connect

__version__ = _core.VERSION

__all__ = [
    "Capacity",
    "Comparison",
    "DaemonRouter",
    "Decision",
    "Impact",
    "Instance",
    "IrouterError",
    "Lease",
    "Point",
    "Profile",
    "Router",
    "Settings",
    "Simulation",
    "Trace",
    "Tuned",
    "Workload",
    "__version__",
    "capacity",
    "compare",
    "connect",
    "read_trace",
    "simulate",
    "tune",
]
