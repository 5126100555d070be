"""The benchmark that routers are compared with: suites, results, their verification and their report."""

from irouter.bench.difference import Difference, diff
from irouter.bench.result import Result, read
from irouter.bench.run import run
from irouter.bench.verification import Verification, verify

__all__ = ["Difference", "Result", "Verification", "diff", "read", "run", "verify"]
