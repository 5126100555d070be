"""Policies that are learned: environments and learners."""
