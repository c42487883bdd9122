"""Public benchmarks by name, with the splits of VTAB and the few-shot settings."""

from vitral.data.benchmarks import vtab
from vitral.data.benchmarks.registry import Benchmark, benchmark, expand, groups

__all__ = ["Benchmark", "benchmark", "expand", "groups", "vtab"]
