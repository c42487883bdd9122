"""Floor 9: vitral beside other libraries, in one process and on the same function."""

from vitral.bench.running import WHAT, BenchConfig, bench

__all__ = ["WHAT", "BenchConfig", "bench"]
