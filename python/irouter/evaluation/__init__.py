"""Comparisons of policies: traces, experiments, statistics and reports."""
