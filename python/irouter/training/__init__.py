"""Policies that are learned: environments and learners."""

from irouter.training.from_log import FleetTraining, train_from_log
from irouter.training.generated import Trained, train
from irouter.training.weights import read as read_weights

__all__ = ["FleetTraining", "Trained", "read_weights", "train", "train_from_log"]
