"""Predictors of output lengths: train on your own logs, run without torch, never block routing.

Importing this imports NumPy and the compiled core, nothing heavier.
"""

from irouter.prediction.answers import Answer, Counts, ServiceOptions
from irouter.prediction.artefact import BACKENDS, TrainedPredictor, export, load, outcomes
from irouter.prediction.calibration import Calibration
from irouter.prediction.card import Card, read_card
from irouter.prediction.distribution import LENGTH_LEVELS, PAPER_EDGES, LengthDistribution
from irouter.prediction.history import HistoryPredictor
from irouter.prediction.log import RequestLog, read_log
from irouter.prediction.metrics import Metrics, Outcomes, group_bootstrap
from irouter.prediction.monitor import Monitor, Quality
from irouter.prediction.predictor import LearningPredictor, LengthPredictor
from irouter.prediction.service import PredictorService
from irouter.prediction.tasks import TaskClassifier
from irouter.prediction.training import train

__all__ = [
    "BACKENDS",
    "LENGTH_LEVELS",
    "PAPER_EDGES",
    "Answer",
    "Calibration",
    "Card",
    "Counts",
    "HistoryPredictor",
    "LearningPredictor",
    "LengthDistribution",
    "LengthPredictor",
    "Metrics",
    "Monitor",
    "Outcomes",
    "PredictorService",
    "Quality",
    "RequestLog",
    "ServiceOptions",
    "TaskClassifier",
    "TrainedPredictor",
    "export",
    "group_bootstrap",
    "load",
    "outcomes",
    "read_card",
    "read_log",
    "train",
]
