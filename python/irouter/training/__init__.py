"""Policies that are learned: environments and learners."""

from irouter.training.search import Trained, train
from irouter.training.weights import read as read_weights

__all__ = ["Trained", "read_weights", "train"]
