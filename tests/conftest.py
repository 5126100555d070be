"""Settings of the test suite."""

import os

from hypothesis import HealthCheck, settings

# Temporary folders are function-scoped: each example writes the same file anew, which is what is wanted.
_ALLOWED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile(
    "quick", max_examples=25, deadline=None, derandomize=True, suppress_health_check=_ALLOWED
)
settings.register_profile("soak", max_examples=2000, deadline=None, suppress_health_check=_ALLOWED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
