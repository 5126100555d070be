"""Latency profiles fitted to logs of a real engine, or to what a live one does while it is probed."""

from irouter.calibration.fit import (
    Calibration,
    Quantity,
    calibrate_requests,
    calibrate_steps,
    calibrate_times,
)

__all__ = ["Calibration", "Quantity", "calibrate_requests", "calibrate_steps", "calibrate_times"]
