"""Public benchmarks by name, with VTAB's splits."""

from vitral.data.benchmarks import vtab
from vitral.data.benchmarks.registry import Benchmark, benchmark, expand, groups

__all__ = ["Benchmark", "benchmark", "expand", "groups", "vtab"]
