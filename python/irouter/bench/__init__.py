"""The benchmark that routers are compared with: suites, results, their verification and their report."""
