"""Cost of a run before it starts: multiply-adds, memory, time."""

from vitral.workflows.cost.dataset_sizes import PUBLISHED_SIZES
from vitral.workflows.cost.macs import count_macs
from vitral.workflows.cost.plan import FLOPS_PER_MAC, RunCost, estimate, measure_flops

__all__ = [
    "FLOPS_PER_MAC",
    "PUBLISHED_SIZES",
    "RunCost",
    "count_macs",
    "estimate",
    "measure_flops",
]
