"""Latency profiles fitted to logs of a real engine."""

from irouter.calibration.fit import Calibration, calibrate_requests, calibrate_steps, calibrate_times

__all__ = ["Calibration", "calibrate_requests", "calibrate_steps", "calibrate_times"]
