"""Latency-aware routing of LLM requests: a router to embed, its simulator, and comparisons of policies.

Importing this package imports NumPy and the compiled core, nothing heavier.
"""

from irouter import _core
from irouter._core import Decision, IrouterError, Profile, Router, Workload
from irouter.evaluation import Comparison, Point, Settings, Simulation, Trace, compare, read_trace, simulate

__version__ = _core.VERSION

__all__ = [
    "Comparison",
    "Decision",
    "IrouterError",
    "Point",
    "Profile",
    "Router",
    "Settings",
    "Simulation",
    "Trace",
    "Workload",
    "__version__",
    "compare",
    "read_trace",
    "simulate",
]
